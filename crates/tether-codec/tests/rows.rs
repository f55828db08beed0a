//! Rows under any codec.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::Arc;

use proptest::prelude::*;
use tether_codec::comparison::PublishedTier;
use tether_codec::{CodecError, CodedRows, HadamardRotation, MeanOf, RowCodec, RowFrame};
use tether_core::{CoreError, Side};

const DIM: usize = 32;

fn codecs() -> impl Strategy<Value = RowCodec> {
    let bits = 1usize..=8;
    prop_oneof![
        Just(RowCodec::Half {}),
        (bits.clone(), 1usize..40).prop_map(|(bits, group)| RowCodec::Int { bits, group }),
        bits.prop_map(|bits| RowCodec::Kivi { bits }),
        (prop::sample::select(vec![1, 2, 3, 4, 6]), any::<bool>()).prop_map(|(bits, page)| {
            RowCodec::Spherical { bits, mean: if page { MeanOf::Page } else { MeanOf::Head } }
        }),
        prop::sample::select(vec![PublishedTier::High, PublishedTier::Mid, PublishedTier::Low])
            .prop_map(|tier| RowCodec::SphericalPublished { tier }),
    ]
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    (1usize..20).prop_flat_map(|rows| prop::collection::vec(-8f32..8.0, rows * DIM))
}

fn made(codec: RowCodec, side: Side, x: &[f32]) -> (RowFrame, CodedRows) {
    let rotation = Arc::new(HadamardRotation::new(DIM, 3));
    let frame = codec.frame(x, &rotation).unwrap();
    let codes = codec.encode(side, &frame, x).unwrap();
    (frame, codes)
}

proptest! {
    /// Logits and sums from codes, in the frame's coordinates, are those of the numbers that the codes stand for.
    #[test]
    fn attention_from_codes_is_that_of_what_they_stand_for(codec in codecs(), x in rows(), q in prop::collection::vec(-2f32..2.0, DIM), first in 0usize..20) {
        let (frame, codes) = made(codec, Side::Keys, &x);
        let restored = codes.restored(&frame).unwrap();
        prop_assert_eq!(codes.rows(), x.len() / DIM);
        prop_assert_eq!(restored.len(), x.len());
        let mut entered = q.clone();
        let shared = frame.enter(&mut entered)[0];
        let first = first.min(codes.rows() - 1);
        let mut read = vec![0f32; (codes.rows() - first) * DIM];
        codes.read(&frame, first, &mut read).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for (coded, row) in read.chunks_exact(DIM).zip(restored.chunks_exact(DIM).skip(first)) {
            let (got, expected) = (dot(&entered, coded) + f64::from(shared), dot(&q, row));
            prop_assert!((got - expected).abs() < 2e-3, "{codec:?}: {got} for {expected}");
        }
        // Weights of sum 1.
        let count = read.len() / DIM;
        let mut mean: Vec<f32> = (0..DIM).map(|c| read.iter().skip(c).step_by(DIM).sum::<f32>() / count as f32).collect();
        frame.leave(&mut mean);
        for (c, got) in mean.iter().enumerate() {
            let expected = restored[first * DIM..].iter().skip(c).step_by(DIM).sum::<f32>() / count as f32;
            prop_assert!((got - expected).abs() < 1e-4, "{codec:?}: {got} for {expected}");
        }
    }

    #[test]
    fn records_come_back_bit_by_bit(codec in codecs(), x in rows(), values in any::<bool>()) {
        let (_, codes) = made(codec, if values { Side::Values } else { Side::Keys }, &x);
        let record = codes.to_bytes().unwrap();
        prop_assert_eq!(&CodedRows::from_bytes(&record).unwrap(), &codes);
        prop_assert!(record.len() >= codes.bytes() + 16 && record.len() <= codes.bytes() + 48);
    }

    #[test]
    fn records_that_were_changed_are_refused(codec in codecs(), x in rows(), at in any::<prop::sample::Index>(), change in 1u8..=255, cut in any::<prop::sample::Index>()) {
        let record = made(codec, Side::Keys, &x).1.to_bytes().unwrap();
        let mut other = record.clone();
        other[at.index(record.len())] ^= change;
        prop_assert!(CodedRows::from_bytes(&other).is_err());
        prop_assert!(CodedRows::from_bytes(&record[..cut.index(record.len())]).is_err());
        let longer = [record.as_slice(), &[0]].concat();
        prop_assert!(CodedRows::from_bytes(&longer).is_err());
    }

    /// Whoever makes a record that is none but has the right checksum gets an error or codes, and what came back can be read.
    #[test]
    fn forged_records_do_no_harm(codec in codecs(), x in rows(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (frame, codes) = made(codec, Side::Keys, &x);
        let mut record = codes.to_bytes().unwrap();
        for (at, to) in changes {
            let at = at.index(record.len());
            record[at] = to;
        }
        let hashed = record[..8].iter().chain(&record[16..]);
        let sum = hashed.fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        record[8..16].copy_from_slice(&sum.to_le_bytes());
        if let Ok(codes) = CodedRows::from_bytes(&record) {
            let _ = codes.restored(&frame);
            prop_assert_eq!(CodedRows::from_bytes(&codes.to_bytes().unwrap()).unwrap(), codes);
        }
    }

    #[test]
    fn bytes_of_anything_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        if magic && bytes.len() > 4 {
            bytes[..4].copy_from_slice(b"TCR1");
        }
        prop_assert!(CodedRows::from_bytes(&bytes).is_err());
    }
}

#[test]
fn a_record_is_what_the_documentation_says() {
    let x = [0.0, 1.0, 2.0, 3.0, 10.0, 10.5, 11.0, 11.5];
    let rotation = Arc::new(HadamardRotation::new(4, 0));
    let codec = RowCodec::Int { bits: 2, group: 4 };
    let frame = codec.frame(&x, &rotation).unwrap();
    let record = codec.encode(Side::Keys, &frame, &x).unwrap().to_bytes().unwrap();
    assert_eq!(record[..8], [b'T', b'C', b'R', b'1', 1, 2, 0, 0]);
    let words: Vec<u64> =
        record[16..48].as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect();
    assert_eq!(words, [2, 4, 4, 0]);
    // Codes 0, 1, 2, 3 twice; scales 1 and 0.5; zeros 0 and 10.
    assert_eq!(record[48..], [0xe4, 0xe4, 0x00, 0x3c, 0x00, 0x38, 0x00, 0x00, 0x00, 0x49]);
}

#[test]
fn what_does_not_fit_is_named() {
    let rotation = Arc::new(HadamardRotation::new(DIM, 0));
    let x = vec![1.0; 2 * DIM];
    let plain = RowCodec::Half {}.frame(&x, &rotation).unwrap();
    let spherical = RowCodec::Spherical { bits: 4, mean: MeanOf::Head };
    let frame = spherical.frame(&x, &rotation).unwrap();
    assert!(matches!(spherical.encode(Side::Keys, &plain, &x), Err(CoreError::Unsupported { .. })));
    let codes = spherical.encode(Side::Keys, &frame, &x).unwrap();
    assert!(matches!(codes.restored(&plain), Err(CoreError::Unsupported { .. })));
    assert!(matches!(codes.read(&frame, 2, &mut [0.0; DIM]), Err(CoreError::Count { .. })));
    assert!(spherical.frame(&x[1..], &rotation).is_err());
    let books = RowCodec::SphericalPublished { tier: PublishedTier::High };
    assert!(matches!(books.frame(&[], &rotation), Err(CoreError::Count { .. })));
    // The same tier of heads of other sizes, and another tier of the same.
    let of = |tier, dim: usize| {
        let codec = RowCodec::SphericalPublished { tier };
        let x: Vec<f32> = (0..4 * dim).map(|i| (i * 37 % 101) as f32).collect();
        let frame = codec.frame(&x, &Arc::new(HadamardRotation::new(dim, 0))).unwrap();
        (codec.encode(Side::Keys, &frame, &x).unwrap(), frame)
    };
    let (high, _) = of(PublishedTier::High, 32);
    for other in [of(PublishedTier::Mid, 32), of(PublishedTier::High, 64)] {
        assert!(high.read(&other.1, 0, &mut [0.0; 64]).is_err());
    }
    for infinite in [f32::NAN, f32::INFINITY, 1e6] {
        let e = RowCodec::Half {}.encode(Side::Values, &plain, &[infinite; DIM]);
        assert!(matches!(e, Err(CoreError::NonFinite { .. })), "{e:?}");
    }
    assert!(matches!(CodedRows::from_bytes(&[0; 47]), Err(CodecError::Length { expected: 48, got: 47 })));
}
