//! Codecs that spherical codes are compared with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_codec::comparison::{Kivi, PairPolar, PublishedTier, SphericalCodebooks};
use tether_codec::{AffineCodes, AffineGroups};
use tether_core::Side;

proptest! {
    #[test]
    fn numbers_come_back_within_a_scale(x in prop::collection::vec(-8f32..8.0, 48), bits in 1usize..=8, size in 1usize..9, channels in any::<bool>()) {
        let groups = if channels { AffineGroups::Channels(size) } else { AffineGroups::Tokens(size) };
        let codes = AffineCodes::new(&x, 12, bits, groups).unwrap();
        let back = codes.restored();
        for (x, back) in x.iter().zip(&back) {
            // Half a step of the widest range, and what scale and zero lose as f16.
            let bound = 16.0 / ((1 << bits) - 1) as f32 * 0.5 + 0.02;
            prop_assert!((x - back).abs() <= bound, "{} {}", x, back);
        }
        let scales = if channels { 4 * 12usize.div_ceil(size) } else { 12 * 4usize.div_ceil(size) };
        prop_assert_eq!(codes.bytes(), (48 * bits).div_ceil(8) + 4 * scales);
    }
}

#[test]
fn two_bits_by_hand() {
    let x = [0.0, 1.0, 2.0, 3.0, 10.0, 10.5, 11.0, 11.5];
    let codes = AffineCodes::new(&x, 4, 2, AffineGroups::Channels(4)).unwrap();
    assert_eq!(codes.restored(), x);
    assert_eq!(codes.bytes(), 2 + 8);
    // Per channel the two tokens are 0 and 3.
    let codes = AffineCodes::new(&[1.0, 5.0, 4.0, -1.0], 2, 2, AffineGroups::Tokens(2)).unwrap();
    assert_eq!(codes.restored(), [1.0, 5.0, 4.0, -1.0]);
    for (bits, groups) in
        [(0, AffineGroups::Tokens(1)), (9, AffineGroups::Tokens(1)), (2, AffineGroups::Channels(0))]
    {
        assert!(AffineCodes::new(&x, 4, bits, groups).is_err());
    }
    assert!(AffineCodes::new(&x[..7], 4, 2, AffineGroups::Tokens(1)).is_err());
    assert!(AffineCodes::new(&[f32::NAN], 1, 2, AffineGroups::Tokens(1)).is_err());
    assert!(AffineCodes::new(&[1e6], 1, 2, AffineGroups::Tokens(1)).is_err());
}

#[test]
fn kivi_leaves_the_newest_tokens_as_they_are() {
    let x: Vec<f32> = (0..200 * 8).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
    for side in [Side::Keys, Side::Values] {
        let mut at_once = Kivi::new(side, 8, 2, 32, 20).unwrap();
        at_once.extend(&x).unwrap();
        let mut one_by_one = Kivi::new(side, 8, 2, 32, 20).unwrap();
        x.chunks_exact(8).for_each(|row| one_by_one.extend(row).unwrap());
        let back = at_once.restored();
        assert_eq!(back, one_by_one.restored());
        assert_eq!((at_once.tokens(), back.len()), (200, 1600));
        // Five pages are coded, 40 tokens are not; all these numbers are f16.
        assert_eq!(back[160 * 8..], x[160 * 8..]);
        assert_ne!(back[..160 * 8], x[..160 * 8]);
        let scales = if side == Side::Keys { 5 * 8 } else { 160 };
        assert_eq!(at_once.bytes(), 160 * 2 + 4 * scales + 40 * 16);
    }
    assert!(Kivi::new(Side::Keys, 8, 2, 0, 20).is_err());
}

#[test]
fn many_bits_of_radius_and_angle_come_close() {
    let x: Vec<f32> = (0..64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
    for centred in [false, true] {
        let polar = PairPolar { radius_bits: 12, angle_bits: 12, centred };
        for (x, back) in x.iter().zip(polar.restored(&x, 16)) {
            assert!((x - back).abs() < 0.02, "{x} {back}");
        }
        assert!((polar.bits_per_channel(16) - 13.0).abs() < 1e-12);
        let zeros = polar.restored(&[0.0; 32], 16);
        assert_eq!(zeros, [0.0; 32]);
    }
}

#[test]
fn directions_of_a_small_sample_are_learnt() {
    // Six directions in each group, of any radius: 8 entries hold them.
    let x: Vec<f32> = (0..300 * 32)
        .map(|i| {
            let (row, channel) = (i / 32, i % 32);
            let direction = ((row % 6) * 17 + channel * 29) % 11;
            (direction as f32 - 5.0) * (1.0 + row as f32 / 300.0)
        })
        .collect();
    let books = SphericalCodebooks::train(PublishedTier::Low, &x, 32).unwrap();
    for (x, back) in x.iter().zip(books.restored(&x).unwrap()) {
        // A radius of 8 bits.
        assert!((x - back).abs() < 0.05, "{x} {back}");
    }
    assert!(SphericalCodebooks::train(PublishedTier::Low, &x, 48).is_err());
    assert!(SphericalCodebooks::train(PublishedTier::High, &[], 16).is_err());
    assert!((PublishedTier::High.bits_per_channel() - 0.875).abs() < 1e-12);
}
