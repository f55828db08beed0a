//! Rotations against the published code, an `f64` oracle, and their algebra.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_core::DType;
use tether_rope::{FrameRope, Pairing, RopeError, RopeKind};
use tether_testing::{Golden, Op, assert_close, rotate_3d, tolerance};

fn three_d(height: usize, width: usize) -> RopeKind {
    RopeKind::wan(height, width)
}

#[test]
fn matches_the_published_code() {
    let golden = Golden::load("tethercache/rope3d.safetensors");
    for name in ["D12_s0", "D12_s9", "D128_s18"] {
        let grid = golden.integers(&format!("{name}.grid"));
        let (frames, h, w, start) = (grid[0], grid[1] as usize, grid[2] as usize, grid[3]);
        let x = golden.tensor(&format!("{name}.x"));
        let (heads, dim) = (x.shape()[2], x.shape()[3]);
        let rope = FrameRope::new(&three_d(h, w), (heads, dim), h * w).unwrap().unwrap();
        let mut got = x.to_f32_vec();
        let positions: Vec<i64> = (start..start + frames).collect();
        let at: Vec<i32> = positions.iter().map(|&p| p as i32).collect();
        rope.rotate(&mut got, (heads, dim), &at).unwrap();
        let expected = golden.f32(&format!("{name}.y"));
        assert_close(name, &got, &expected, tolerance(Op::Rotate, DType::F32));
        // The oracle that other tests use is held to the same file.
        let oracle = rotate_3d(&x.to_f32_vec(), &positions, (h, w), dim, 10_000.0);
        assert_close(name, &oracle, &expected, tolerance(Op::Rotate, DType::F32));
    }
}

#[test]
fn splits_pairs_as_wan_does() {
    let split = |dim| {
        let rope = FrameRope::new(&three_d(1, 1), (1, dim), 1).unwrap().unwrap();
        // A pair whose axis does not move stays as it is.
        let turned = |lists: [&[i32]; 3]| {
            let mut x = vec![1.0; dim];
            let rotation = rope.rope().to_positions(&lists);
            tether_rope::rotate_rows(&mut x, 1, dim, &rotation, tether_rope::Angles::Exact).unwrap();
            x.chunks_exact(2).filter(|pair| pair[0] != 1.0).count()
        };
        (turned([&[1], &[0], &[0]]), turned([&[0], &[1], &[0]]), turned([&[0], &[0], &[1]]))
    };
    assert_eq!(split(128), (22, 21, 21));
    assert_eq!(split(64), (12, 10, 10));
    assert_eq!(split(12), (2, 2, 2));
    assert_eq!(split(80), (14, 13, 13));
}

#[test]
fn half_and_interleaved_pairs_agree_after_a_permutation() {
    let dim = 8;
    let one =
        |pairing| FrameRope::new(&RopeKind::OneD { theta: 100.0, pairing }, (1, dim), 1).unwrap().unwrap();
    let x: Vec<f32> = (0..dim).map(|i| i as f32 - 3.0).collect();
    let mut half = x.clone();
    one(Pairing::Half).rotate(&mut half, (1, dim), &[7]).unwrap();
    let mut interleaved: Vec<f32> = (0..dim).map(|c| x[c / 2 + c % 2 * dim / 2]).collect();
    one(Pairing::Interleaved).rotate(&mut interleaved, (1, dim), &[7]).unwrap();
    let permuted: Vec<f32> = (0..dim).map(|c| half[c / 2 + c % 2 * dim / 2]).collect();
    assert_close("pairings", &interleaved, &permuted, tolerance(Op::Rotate, DType::F32));
}

#[test]
fn refuses_what_it_does_not_know() {
    let err = |kind: RopeKind, dim, tokens| FrameRope::new(&kind, (1, dim), tokens).unwrap_err();
    let with_theta = |theta| match three_d(1, 1) {
        RopeKind::ThreeD { height, width, layout, .. } => RopeKind::ThreeD { theta, height, width, layout },
        other => other,
    };
    assert!(matches!(err(three_d(2, 3), 12, 7), RopeError::Grid { .. }));
    assert!(matches!(err(three_d(2, 3), 13, 6), RopeError::HeadDim { .. }));
    assert!(matches!(err(with_theta(1.0), 12, 1), RopeError::Theta { .. }));
    assert!(matches!(err(with_theta(f64::NAN), 12, 1), RopeError::Theta { .. }));
    let llama = RopeKind::OneD { theta: 1e4, pairing: Pairing::Half };
    assert!(matches!(err(llama, 64, 6), RopeError::UnitOfTokens { tokens: 6 }));
    assert_eq!(FrameRope::new(&RopeKind::None, (1, 7), 1).unwrap(), None);
    let rope = FrameRope::new(&three_d(2, 3), (1, 12), 6).unwrap().unwrap();
    assert!(matches!(rope.rotate(&mut [0.0; 72], (1, 12), &[2, 3]), Err(RopeError::Length { .. })));
    assert!(matches!(rope.rotate(&mut [0.0; 71], (1, 12), &[0]), Err(RopeError::Length { .. })));
    assert!(matches!(rope.rotate(&mut [0.0; 72], (1, 6), &[0]), Err(RopeError::HeadDim { .. })));
}

fn rotated(x: &[f32], position: i64, dim: usize) -> Vec<f32> {
    let rope = FrameRope::new(&three_d(1, 1), (1, dim), 1).unwrap().unwrap();
    let mut out = x.to_vec();
    rope.rotate(&mut out, (1, dim), &[position as i32]).unwrap();
    out
}

proptest! {
    #[test]
    fn two_rotations_are_one(x in prop::collection::vec(-2.0f32..2.0, 24), a in -300i64..300, b in -300i64..300) {
        let twice = rotated(&rotated(&x, a, 24), b, 24);
        assert_close("R(a)R(b)", &twice, &rotated(&x, a + b, 24), tolerance(Op::Rotate, DType::F32));
    }

    #[test]
    fn lengths_stay_and_products_depend_on_distance(
        q in prop::collection::vec(-2.0f32..2.0, 24), k in prop::collection::vec(-2.0f32..2.0, 24),
        a in 0i64..200, b in 0i64..200, shift in 0i64..200,
    ) {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let (qa, kb) = (rotated(&q, a, 24), rotated(&k, b, 24));
        prop_assert!((dot(&qa, &qa) - dot(&q, &q)).abs() < 1e-4 * (1.0 + dot(&q, &q)));
        let moved = dot(&rotated(&q, a + shift, 24), &rotated(&k, b + shift, 24));
        prop_assert!((dot(&qa, &kb) - moved).abs() < 1e-3);
        prop_assert_eq!(rotated(&q, 0, 24), q);
    }
}
