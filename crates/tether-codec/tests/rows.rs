//! Rows under any codec.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::Arc;

use proptest::prelude::*;
use tether_codec::comparison::PublishedTier;
use tether_codec::{CodedRows, HadamardRotation, MeanOf, RowCodec, RowFrame};
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
    let frame = RowFrame::of(&codec, x, &rotation).unwrap();
    let codes = CodedRows::coded(&codec, side, &frame, x).unwrap();
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
}

#[test]
fn what_does_not_fit_is_named() {
    let rotation = Arc::new(HadamardRotation::new(DIM, 0));
    let x = vec![1.0; 2 * DIM];
    let plain = RowFrame::of(&RowCodec::Half {}, &x, &rotation).unwrap();
    let spherical = RowCodec::Spherical { bits: 4, mean: MeanOf::Head };
    let frame = RowFrame::of(&spherical, &x, &rotation).unwrap();
    assert!(matches!(
        CodedRows::coded(&spherical, Side::Keys, &plain, &x),
        Err(CoreError::Unsupported { .. })
    ));
    let codes = CodedRows::coded(&spherical, Side::Keys, &frame, &x).unwrap();
    assert!(matches!(codes.restored(&plain), Err(CoreError::Unsupported { .. })));
    assert!(matches!(codes.read(&frame, 2, &mut [0.0; DIM]), Err(CoreError::Count { .. })));
    assert!(RowFrame::of(&spherical, &x[1..], &rotation).is_err());
    let books = RowCodec::SphericalPublished { tier: PublishedTier::High };
    assert!(matches!(RowFrame::of(&books, &[], &rotation), Err(CoreError::Count { .. })));
    // The same tier of heads of other sizes, and another tier of the same.
    let of = |tier, dim: usize| {
        let codec = RowCodec::SphericalPublished { tier };
        let x: Vec<f32> = (0..4 * dim).map(|i| (i * 37 % 101) as f32).collect();
        let frame = RowFrame::of(&codec, &x, &Arc::new(HadamardRotation::new(dim, 0))).unwrap();
        (CodedRows::coded(&codec, Side::Keys, &frame, &x).unwrap(), frame)
    };
    let (high, _) = of(PublishedTier::High, 32);
    for other in [of(PublishedTier::Mid, 32), of(PublishedTier::High, 64)] {
        assert!(high.read(&other.1, 0, &mut [0.0; 64]).is_err());
    }
    for infinite in [f32::NAN, f32::INFINITY, 1e6] {
        let e = CodedRows::coded(&RowCodec::Half {}, Side::Values, &plain, &[infinite; DIM]);
        assert!(matches!(e, Err(CoreError::NonFinite { .. })), "{e:?}");
    }
}
