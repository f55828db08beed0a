//! Keys of single tokens, turned and moved.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_rope::{Angles, Pairing, RopeError, TokenRope, Yarn, rotate_rows, turned};

fn keys(tokens: usize, dim: usize) -> Vec<f32> {
    (0..tokens * dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect()
}

fn close(got: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() < limit, "{g} for {e}");
    }
}

#[test]
fn a_quarter_turn() {
    let rope = TokenRope::from_frequencies(Pairing::Half, vec![std::f64::consts::FRAC_PI_2]).unwrap();
    for angles in [Angles::Exact, Angles::Rounded] {
        close(&turned(vec![1.0, 0.0], 2, &rope.by(&[&[1]]), angles).unwrap(), &[0.0, 1.0], 1e-6);
    }
}

#[test]
fn a_moved_key_is_the_raw_key_at_its_new_position() {
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        // Partial: the last four channels do not turn.
        let rope = TokenRope::new(pairing, 10_000.0, 8).unwrap();
        let raw = keys(5, 12);
        let (old, new) = ([3, 90, 91, 1000, 4000], [0, 1, 2, 3, 4]);
        let delta: Vec<i32> = new.iter().zip(&old).map(|(n, o)| n - o).collect();
        for (angles, limit) in [(Angles::Exact, 1e-6), (Angles::Rounded, 1e-3)] {
            let at = |positions: &[i32]| {
                turned(raw.clone(), 12, &rope.to_positions(&[positions]), angles).unwrap()
            };
            let moved = turned(at(&old), 12, &rope.by(&[&delta]), angles).unwrap();
            close(&moved, &at(&new), limit);
            close(&moved[8..12], &raw[8..12], 1e-9);
        }
    }
}

#[test]
fn yarn_scales_slow_pairs_and_rotated_keys_once() {
    let plain = TokenRope::new(Pairing::Half, 10_000.0, 64).unwrap();
    let same = TokenRope::yarn(Pairing::Half, 10_000.0, 64, Yarn::new(1.0, 4096)).unwrap();
    for (a, b) in same.frequencies().iter().zip(plain.frequencies()) {
        assert!((a - b).abs() <= 1e-15 * b);
    }
    assert_eq!(same.attention_factor(), 1.0);
    let yarn = TokenRope::yarn(Pairing::Half, 10_000.0, 64, Yarn::new(4.0, 4096)).unwrap();
    let ratio = |pair: usize| yarn.frequencies()[pair] / plain.frequencies()[pair];
    assert_eq!(ratio(0), 1.0, "fast pairs stay");
    assert!((ratio(31) - 0.25).abs() < 1e-12, "slow pairs are divided by the factor");
    assert!((0..31).all(|i| ratio(i) >= ratio(i + 1)));
    assert!((yarn.attention_factor() - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    // The factor is in a rotated key: moving it must not apply it again.
    let raw = keys(1, 64);
    let at = |p: i32| turned(raw.clone(), 64, &yarn.to_positions(&[&[p]]), Angles::Exact).unwrap();
    close(&turned(at(70), 64, &yarn.by(&[&[-60]]), Angles::Exact).unwrap(), &at(10), 1e-5);
    // The factor is taken out where the rotation is.
    close(&turned(at(70), 64, &yarn.to_raw(&[&[-70]]), Angles::Exact).unwrap(), &raw, 1e-5);
    for bad in [Yarn::new(0.5, 4096), Yarn::new(f64::NAN, 4096), Yarn::new(2.0, 0)] {
        assert!(matches!(TokenRope::yarn(Pairing::Half, 10_000.0, 64, bad), Err(RopeError::Scaling { .. })));
    }
}

#[test]
fn each_section_turns_with_its_axis() {
    let rope = TokenRope::new(Pairing::Half, 10_000.0, 12).unwrap().with_sections(&[2, 2, 2]).unwrap();
    assert_eq!(rope.axes(), 3);
    let raw = keys(1, 12);
    let at = |t: i32, h: i32, w: i32| {
        turned(raw.clone(), 12, &rope.to_positions(&[&[t], &[h], &[w]]), Angles::Exact).unwrap()
    };
    let moved = turned(at(7, 3, 5), 12, &rope.by(&[&[-7], &[0], &[2]]), Angles::Exact).unwrap();
    close(&moved, &at(0, 3, 7), 1e-6);
    // A text position is the same on all axes, so that the sections do not matter.
    let plain = TokenRope::new(Pairing::Half, 10_000.0, 12).unwrap();
    close(&at(9, 9, 9), &turned(raw.clone(), 12, &plain.to_positions(&[&[9]]), Angles::Exact).unwrap(), 1e-7);
    for bad in [&[][..], &[2, 2], &[2, 2, 3], &[2, 2, 1, 1]] {
        let e = TokenRope::new(Pairing::Half, 10_000.0, 12).unwrap().with_sections(bad).unwrap_err();
        assert!(matches!(e, RopeError::Sections { pairs: 6, .. }), "{e}");
    }
}

#[test]
fn all_heads_of_a_token_rotate_alike() {
    let rope = TokenRope::new(Pairing::Interleaved, 10_000.0, 8).unwrap();
    let (raw, deltas) = (keys(3 * 4, 10), [5, -70, 0]);
    for angles in [Angles::Exact, Angles::Rounded] {
        let mut all = raw.clone();
        rotate_rows(&mut all, 4, 10, &rope.by(&[&deltas]), angles).unwrap();
        for head in 0..4 {
            let of_head = |x: &[f32]| -> Vec<f32> {
                x.chunks_exact(10).skip(head).step_by(4).flatten().copied().collect()
            };
            let mut alone = of_head(&raw);
            rotate_rows(&mut alone, 1, 10, &rope.by(&[&deltas]), angles).unwrap();
            assert_eq!(of_head(&all), alone);
        }
    }
}

#[test]
fn parts_of_a_token_are_refused_and_stay_as_they_are() {
    let rope = TokenRope::new(Pairing::Half, 10_000.0, 8).unwrap();
    for angles in [Angles::Exact, Angles::Rounded] {
        for (len, heads, head_dim) in [(17, 1, 8), (24, 2, 8), (8, 0, 8), (8, 1, 0), (8, usize::MAX, 8)] {
            let before = keys(len, 1);
            let mut got = before.clone();
            let e = rotate_rows(&mut got, heads, head_dim, &rope.by(&[&[1, 2]]), angles).unwrap_err();
            assert!(matches!(e, RopeError::Rows { got, .. } if got == len), "{e}");
            assert_eq!(got, before);
        }
        let mut none = [];
        rotate_rows(&mut none, 2, 8, &rope.by(&[&[]]), angles).unwrap();
    }
}

#[test]
fn what_cannot_be_turned_is_refused() {
    assert!(matches!(TokenRope::new(Pairing::Half, 10_000.0, 7), Err(RopeError::HeadDim { .. })));
    assert!(matches!(TokenRope::new(Pairing::Half, 1.0, 8), Err(RopeError::Theta { .. })));
    assert!(TokenRope::from_frequencies(Pairing::Half, vec![f64::INFINITY]).is_err());
    let rope = TokenRope::new(Pairing::Half, 10_000.0, 8).unwrap();
    for angles in [Angles::Exact, Angles::Rounded] {
        assert!(turned(keys(2, 6), 6, &rope.by(&[&[1, 2]]), angles).is_err(), "heads of 6 channels");
        assert!(turned(keys(2, 8), 8, &rope.by(&[&[1]]), angles).is_err(), "one entry for two tokens");
    }
}
