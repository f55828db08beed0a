//! Rotations of cached keys.

use tether_core::{CoreError, DType, HostTensor, Pairing, Rotation, TokenEngine, TokenLayout, TokenShape};

use super::assert_refused;
use crate::oracle::{rotate_tokens, rotated_elements};
use crate::tensors::{assert_same_bits, poison, random, read};
use crate::{Op, Tolerance, assert_close, tolerance};

const LAYOUTS: [TokenLayout; 2] = [TokenLayout::Nhd, TokenLayout::Hnd];

/// By how much tokens move.
#[derive(Clone, Copy, Debug)]
enum Moves {
    /// A few places, either way.
    Near,
    /// Beyond the contexts of today's models.
    Far,
    /// As far as a number of positions goes.
    Farthest,
    /// Not at all.
    None,
    /// Some of them, and only on this axis.
    Axis(usize),
}

impl Moves {
    fn delta(self, axis: usize, entry: usize) -> i32 {
        let (axis_term, entry) = (7 * axis as i32, entry as i32);
        match self {
            Self::Near => (entry * 5 + axis_term) % 23 - 11,
            Self::Far => (131_072 + entry * 3 + axis_term) * if entry % 2 == 0 { 1 } else { -1 },
            Self::Farthest => {
                if entry % 2 == 0 {
                    i32::MAX - entry - axis_term
                } else {
                    i32::MIN + entry + axis_term
                }
            }
            Self::None => 0,
            Self::Axis(moved) if moved == axis => entry % 4 * (17 + axis_term),
            Self::Axis(_) => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    tokens: usize,
    heads: usize,
    head_dim: usize,
    pairing: Pairing,
    rotary_dim: usize,
    /// First pair that turns, and how many do.
    pairs: (usize, usize),
    /// Pairs of each axis, in their order; a shorter list than pairs goes round.
    sections: &'static [usize],
    moves: Moves,
    tokens_per_delta: usize,
    scale: f32,
    theta: f64,
}

impl Case {
    const fn new((tokens, heads, head_dim): (usize, usize, usize), pairing: Pairing) -> Self {
        Self {
            tokens,
            heads,
            head_dim,
            pairing,
            rotary_dim: head_dim / 2 * 2,
            pairs: (0, head_dim / 2),
            sections: &[],
            moves: Moves::Near,
            tokens_per_delta: 1,
            scale: 1.0,
            theta: 10_000.0,
        }
    }

    fn shape(&self, layout: TokenLayout) -> TokenShape {
        TokenShape { tokens: self.tokens, heads: self.heads, head_dim: self.head_dim, layout }
    }
}

/// The lists that a [`Rotation`] borrows.
struct Lists {
    frequencies: Vec<f64>,
    axes: Vec<u8>,
    deltas: Vec<Vec<i32>>,
}

impl Lists {
    fn of(case: &Case) -> Self {
        let (first, pairs) = case.pairs;
        let frequency = |p: usize| case.theta.powf(-2.0 * p as f64 / case.rotary_dim.max(1) as f64);
        let sections = case.sections.iter().enumerate();
        let axes: Vec<u8> = sections
            .flat_map(|(axis, &count)| std::iter::repeat_n(axis as u8, count))
            .cycle()
            .take(pairs)
            .collect();
        let entries = case.tokens.div_ceil(case.tokens_per_delta);
        let deltas = (0..case.sections.len().max(1))
            .map(|axis| (0..entries).map(|entry| case.moves.delta(axis, entry)).collect());
        Self { frequencies: (first..first + pairs).map(frequency).collect(), axes, deltas: deltas.collect() }
    }

    fn slices(&self) -> Vec<&[i32]> {
        self.deltas.iter().map(Vec::as_slice).collect()
    }

    fn rotation<'a>(&'a self, case: &Case, deltas: &'a [&'a [i32]]) -> Rotation<'a> {
        Rotation {
            pairing: case.pairing,
            rotary_dim: case.rotary_dim,
            first_pair: case.pairs.0,
            frequencies: &self.frequencies,
            axes: &self.axes,
            deltas,
            tokens_per_delta: case.tokens_per_delta,
            scale: case.scale,
        }
    }
}

/// Multimodal text: sections of 16, 24 and 24 pairs (Qwen2-VL).
const MROPE: &[usize] = &[16, 24, 24];
/// Video: 22, 21 and 21 pairs (Wan 2.1).
const VIDEO: &[usize] = &[22, 21, 21];

fn cases() -> Vec<Case> {
    use Pairing::{Half, Interleaved};
    let mut cases: Vec<Case> = [
        ((1, 1, 6), Interleaved),
        ((1, 1, 6), Half),
        ((17, 3, 10), Half),
        ((5, 2, 10), Interleaved),
        ((9, 1, 7), Half),
        ((7, 3, 64), Half),
        ((7, 3, 64), Interleaved),
        ((5, 2, 80), Half),
        ((3, 4, 96), Interleaved),
        ((33, 8, 128), Half),
        ((33, 1, 128), Interleaved),
        ((3, 2, 256), Half),
        ((0, 2, 64), Half),
        // More rows than a grid has cubes along one axis.
        ((70_001, 1, 8), Half),
    ]
    .map(|(shape, pairing)| Case::new(shape, pairing))
    .to_vec();
    let half = Case::new((9, 2, 128), Half);
    let interleaved = Case::new((9, 2, 128), Interleaved);
    let mrope = Case { sections: MROPE, theta: 1e6, ..half };
    let video = Case { tokens: 26, sections: VIDEO, ..interleaved };
    cases.extend([
        // A part of a head.
        Case { rotary_dim: 32, pairs: (0, 16), ..Case::new((5, 2, 80), Half) },
        Case { rotary_dim: 24, pairs: (0, 12), ..Case::new((5, 2, 96), Interleaved) },
        Case { rotary_dim: 6, pairs: (0, 3), ..Case::new((5, 3, 11), Half) },
        // Some pairs.
        Case { pairs: (5, 9), ..Case::new((6, 2, 64), Half) },
        Case { pairs: (5, 9), ..Case::new((6, 2, 64), Interleaved) },
        Case { rotary_dim: 48, pairs: (23, 1), ..Case::new((6, 3, 64), Half) },
        Case { pairs: (4, 0), ..half },
        // Three axes, all of them and one at a time.
        mrope,
        Case { moves: Moves::Axis(0), ..mrope },
        Case { moves: Moves::Axis(1), ..mrope },
        Case { moves: Moves::Axis(2), ..mrope },
        Case { sections: &[1, 1, 1], ..mrope },
        video,
        Case { moves: Moves::Axis(0), tokens_per_delta: 5, ..video },
        // The time axis of a video alone: its pairs, a frame's tokens an entry, the last frame not whole.
        Case { sections: &[], pairs: (0, 22), tokens_per_delta: 5, ..video },
        Case { tokens_per_delta: 100, ..half },
        // Runs of one delta that are as long as a thread block's work, and longer.
        Case { tokens: 450, sections: &[], pairs: (0, 22), tokens_per_delta: 200, ..video },
        Case { tokens: 450, moves: Moves::Axis(2), tokens_per_delta: 128, ..video },
        Case { tokens: 700, tokens_per_delta: 300, pairs: (5, 40), ..half },
        Case {
            tokens: 900,
            tokens_per_delta: 400,
            rotary_dim: 24,
            pairs: (0, 12),
            ..Case::new((5, 3, 96), Interleaved)
        },
        Case {
            tokens: 600,
            tokens_per_delta: 400,
            rotary_dim: 6,
            pairs: (1, 2),
            ..Case::new((5, 3, 11), Half)
        },
        Case { tokens: 600, tokens_per_delta: 600, scale: 1.25, ..Case::new((5, 2, 7), Interleaved) },
        // Far positions, where an angle in `f32` would have no digits left.
        Case { moves: Moves::Far, ..half },
        Case { moves: Moves::Far, ..interleaved },
        Case { moves: Moves::Far, theta: 1e6, ..mrope },
        Case { moves: Moves::Farthest, ..half },
        Case { moves: Moves::None, ..half },
        Case { moves: Moves::None, scale: 1.25, ..half },
        Case { scale: 1.138_629_4, ..interleaved },
        Case { scale: 0.75, pairs: (3, 20), ..half },
    ]);
    cases
}

/// Rotated tokens are the oracle's, in place and as a copy; channels that do not turn keep their bits, and so does what a copy was made of.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn rotates_by_positions<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (case, layout) in cases().into_iter().flat_map(|case| LAYOUTS.map(|layout| (case, layout))) {
        let what = format!("{case:?} {layout:?} {dtype}");
        let lists = Lists::of(&case);
        let deltas = lists.slices();
        let rotation = lists.rotation(&case, &deltas);
        let shape = case.shape(layout);
        let x = random(11, &shape.dims(), dtype, 0.125);
        let uploaded = engine.upload_rotation(&rotation)?;
        let mut on_device = engine.upload(&x)?;
        poison(engine, shape.len())?;
        let copy = engine.rotated(&on_device, layout, &uploaded)?;
        let copy = read(engine, &copy)?;
        assert_same_bits(&format!("{what}: what a copy was made of"), &read(engine, &on_device)?, &x);
        assert_eq!((copy.shape(), copy.dtype()), (x.shape(), x.dtype()), "{what}");
        let (got, before) = (copy.to_f32_vec(), x.to_f32_vec());
        let expected = rotate_tokens(&before, &shape, &rotation);
        assert_close(&what, &got, &expected, tolerance(Op::Rotate, dtype));
        let turned = rotated_elements(&shape, &rotation);
        for (i, (got, before)) in got.iter().zip(&before).enumerate().filter(|&(i, _)| !turned[i]) {
            assert_eq!(got.to_bits(), before.to_bits(), "{what}: element {i} does not turn");
        }
        engine.rotate(&mut on_device, layout, &uploaded)?;
        assert_same_bits(&format!("{what}: in place"), &read(engine, &on_device)?, &copy);
    }
    Ok(())
}

/// Back to where a key was is where it was, also from far away.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a result is out of tolerance.
pub fn undoes_rotations<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for moves in [Moves::Near, Moves::Far] {
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let case = Case { sections: MROPE, moves, ..Case::new((21, 2, 128), pairing) };
            let lists = Lists::of(&case);
            let back: Vec<Vec<i32>> =
                lists.deltas.iter().map(|axis| axis.iter().map(|d| -d).collect()).collect();
            let back: Vec<&[i32]> = back.iter().map(Vec::as_slice).collect();
            let there = lists.slices();
            let x = random(12, &[21, 2, 128], dtype, 0.0);
            let mut on_device = engine.upload(&x)?;
            let rotation = lists.rotation(&case, &there);
            engine.rotate(&mut on_device, TokenLayout::Nhd, &engine.upload_rotation(&rotation)?)?;
            let moved = rotate_tokens(&x.to_f32_vec(), &case.shape(TokenLayout::Nhd), &rotation);
            let what = format!("{moves:?} {pairing:?} {dtype}");
            let there = read(engine, &on_device)?.to_f32_vec();
            assert_close(&what, &there, &moved, tolerance(Op::Rotate, dtype));
            let rotation = engine.upload_rotation(&lists.rotation(&case, &back))?;
            engine.rotate(&mut on_device, TokenLayout::Nhd, &rotation)?;
            let got = read(engine, &on_device)?.to_f32_vec();
            let Tolerance { abs, rel } = tolerance(Op::Rotate, dtype);
            // Two roundings to the storage type, of numbers up to twice as large.
            let twice = Tolerance { abs: 2.0 * abs.max(rel), rel: 2.0 * rel };
            assert_close(&format!("{what}, and back"), &got, &x.to_f32_vec(), twice);
        }
    }
    Ok(())
}

/// Rotations that make no sense, by themselves or for the keys at hand, are refused, and the keys stay as they are.
///
/// # Errors
/// What the engine refuses and should not.
///
/// # Panics
/// When it accepts one of the calls.
pub fn refuses_rotations_that_do_not_fit<E: TokenEngine>(engine: &E) -> Result<(), CoreError> {
    let frequencies = [1.0, 0.5, 0.25];
    let deltas: [&[i32]; 1] = [&[1, 2, 3, 4, 5]];
    let good = Rotation {
        pairing: Pairing::Half,
        rotary_dim: 8,
        first_pair: 1,
        frequencies: &frequencies,
        axes: &[],
        deltas: &deltas,
        tokens_per_delta: 1,
        scale: 1.0,
    };
    let wrong = |rotation: Rotation<'_>| engine.upload_rotation(&rotation);
    assert_refused!(
        wrong(Rotation { rotary_dim: 7, ..good }),
        CoreError::Geometry { field: "rotary_dim", .. }
    );
    assert_refused!(
        wrong(Rotation { first_pair: 2, ..good }),
        CoreError::Geometry { field: "first_pair", .. }
    );
    assert_refused!(
        wrong(Rotation { first_pair: usize::MAX, ..good }),
        CoreError::Geometry { field: "first_pair", .. }
    );
    assert_refused!(wrong(Rotation { tokens_per_delta: 0, ..good }), CoreError::Geometry { .. });
    assert_refused!(wrong(Rotation { deltas: &[], ..good }), CoreError::Geometry { field: "axes", .. });
    assert_refused!(
        wrong(Rotation { deltas: &[&[1i32] as &[i32]; 4], ..good }),
        CoreError::Geometry { field: "axes", .. }
    );
    assert_refused!(wrong(Rotation { deltas: &[&[1, 2], &[1]], ..good }), CoreError::Count { .. });
    assert_refused!(wrong(Rotation { axes: &[0, 0], ..good }), CoreError::Count { .. });
    assert_refused!(wrong(Rotation { axes: &[0, 1, 0], ..good }), CoreError::Geometry { field: "axis", .. });
    assert_refused!(
        wrong(Rotation { frequencies: &[1.0, f64::NAN, 1.0], ..good }),
        CoreError::NonFinite { what: "frequencies", index: 1 }
    );
    assert_refused!(
        wrong(Rotation { scale: f32::INFINITY, ..good }),
        CoreError::NonFinite { what: "scale", .. }
    );

    let x = random(13, &[5, 2, 8], DType::F32, 0.0);
    let uploaded = engine.upload_rotation(&good)?;
    let refused = |x: &HostTensor, layout, expected: fn(&CoreError) -> bool| -> Result<(), CoreError> {
        let mut on_device = engine.upload(x)?;
        let copy = engine.rotated(&on_device, layout, &uploaded).map(|_| ());
        let place = engine.rotate(&mut on_device, layout, &uploaded);
        for result in [copy, place] {
            assert!(result.as_ref().is_err_and(expected), "{:?} {layout:?}: {result:?}", x.shape());
        }
        assert_same_bits("what was not rotated", &read(engine, &on_device)?, x);
        Ok(())
    };
    // As many deltas as tokens, so the order matters.
    refused(&x, TokenLayout::Hnd, |e| matches!(e, CoreError::Count { expected: 2, got: 5, .. }))?;
    let narrow = random(13, &[5, 2, 6], DType::F32, 0.0);
    refused(&narrow, TokenLayout::Nhd, |e| matches!(e, CoreError::Geometry { field: "rotary_dim", .. }))?;
    for shape in [&[80][..], &[10, 8], &[1, 5, 2, 8]] {
        let x = random(13, shape, DType::F32, 0.0);
        refused(&x, TokenLayout::Nhd, |e| matches!(e, CoreError::ShapeMismatch { .. }))?;
    }
    Ok(())
}
