//! Rotations of video and vision-language models, each beside its own published formula, written out here in `f64` one pair after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::DType;
use tether_rope::{
    Angles, Axis, AxisLayout, AxisOrder, FrameRope, Pairing, RopeError, RopeKind, TokenRope, rotate_rows,
};
use tether_testing::{Op, assert_close, tolerance};

const HEIGHT: usize = 3;
const WIDTH: usize = 5;
const TOKENS: usize = HEIGHT * WIDTH;

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + 13) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// Rotates every token by `angle(token row of a unit's position, row and column; pair of all of the token's)`.
fn oracle(
    x: &[f32],
    (heads, dim): (usize, usize),
    positions: &[i32],
    pairing: Pairing,
    angle: impl Fn([f64; 3], usize, usize) -> f64,
) -> Vec<f32> {
    let mut out = x.to_vec();
    for (unit, &position) in positions.iter().enumerate() {
        for token in 0..TOKENS {
            let at = [f64::from(position), (token / WIDTH) as f64, (token % WIDTH) as f64];
            for head in 0..heads {
                let row = ((unit * TOKENS + token) * heads + head) * dim;
                for pair in 0..dim / 2 {
                    let (i, j) = match pairing {
                        Pairing::Interleaved => (row + 2 * pair, row + 2 * pair + 1),
                        Pairing::Half => (row + pair, row + pair + dim / 2),
                    };
                    let angle = angle(at, head, pair);
                    let (a, b) = (f64::from(x[i]), f64::from(x[j]));
                    out[i] = (a * angle.cos() - b * angle.sin()) as f32;
                    out[j] = (a * angle.sin() + b * angle.cos()) as f32;
                }
            }
        }
    }
    out
}

fn check(
    what: &str,
    kind: RopeKind,
    (heads, dim): (usize, usize),
    pairing: Pairing,
    angle: impl Fn([f64; 3], usize, usize) -> f64,
) {
    let positions = [0, 4, 20, 77];
    let x = numbers(positions.len() * TOKENS * heads * dim);
    let rope = FrameRope::new(&kind, (heads, dim), TOKENS).unwrap().unwrap();
    let mut got = x.clone();
    rope.rotate(&mut got, (heads, dim), &positions).unwrap();
    let expected = oracle(&x, (heads, dim), &positions, pairing, angle);
    assert_close(what, &got, &expected, tolerance(Op::Rotate, DType::F32));
    assert_ne!(got, x);
}

/// Pairs in blocks: the axis of `pair`, its number in the block, and the block's size.
fn block(pair: usize, sizes: [usize; 3]) -> (usize, f64, f64) {
    let mut first = 0;
    for (axis, size) in sizes.into_iter().enumerate() {
        if pair < first + size {
            return (axis, (pair - first) as f64, size as f64);
        }
        first += size;
    }
    panic!("pair {pair} of {sizes:?}")
}

#[test]
fn wan() {
    check("Wan 2.1", RopeKind::wan(HEIGHT, WIDTH), (2, 128), Pairing::Interleaved, |at, _, pair| {
        let (axis, i, n) = block(pair, [22, 21, 21]);
        at[axis] / 10_000f64.powf(2.0 * i / (2.0 * n))
    });
}

#[test]
fn hunyuan_video() {
    // rope_dim_list = [16, 56, 56], theta 256.
    let kind = RopeKind::hunyuan_video(HEIGHT, WIDTH);
    check("HunyuanVideo", kind, (2, 128), Pairing::Interleaved, |at, _, pair| {
        let (axis, i, n) = block(pair, [8, 28, 28]);
        at[axis] / 256f64.powf(2.0 * i / (2.0 * n))
    });
}

#[test]
fn cogvideox() {
    // dim_t = 64 / 4, dim_h = dim_w = 64 / 8 * 3; positions of another size than the training's are stretched.
    let scales = [1.0, 0.75, 1.5];
    let kind = RopeKind::cogvideox(HEIGHT, WIDTH, scales);
    check("CogVideoX", kind, (3, 64), Pairing::Interleaved, |at, _, pair| {
        let (axis, i, n) = block(pair, [8, 12, 12]);
        at[axis] * scales[axis] / 10_000f64.powf(2.0 * i / (2.0 * n))
    });
}

#[test]
fn cosmos() {
    // dim_h = dim_w = 128 // 6 * 2 = 42, dim_t = 44; theta raised by ratio^(dim / (dim - 2)); positions in time by the frame rate.
    let ratios = [2.0, 3.0, 1.0];
    let kind = RopeKind::cosmos(HEIGHT, WIDTH, ratios, 24.0 / 30.0);
    check("Cosmos", kind, (2, 128), Pairing::Half, |at, _, pair| {
        let (axis, i, n) = block(pair, [22, 21, 21]);
        let dim = 2.0 * n;
        let theta = 10_000.0 * ratios[axis].powf(dim / (dim - 2.0));
        let position = if axis == 0 { at[0] / 30.0 * 24.0 } else { at[axis] };
        position * (1.0 / theta.powf(2.0 * i / dim))
    });
}

#[test]
fn ltx_video() {
    // Frequencies of all heads together: theta^linspace(0, 1, 6 * 20 // 6) * pi / 2 for (time, row, column) in turns, after the channels that are
    // over; angles are of positions in -1..1, without what all positions of an axis have in common.
    let (heads, dim) = (6usize, 20usize);
    let steps = [1.0 / 20.0, 1.0 / 32.0, 1.0 / 48.0];
    let kind = RopeKind::ltx_video(HEIGHT, WIDTH, (heads, dim), steps);
    for (heads, dim) in [(heads, dim), (2, 64)] {
        let kind = if dim == 20 { kind } else { RopeKind::ltx_video(HEIGHT, WIDTH, (heads, dim), steps) };
        check("LTX-Video", kind, (heads, dim), Pairing::Interleaved, |at, head, pair| {
            let inner = heads * dim;
            let (each, over) = (inner / 6, inner % 6 / 2);
            let channel = head * dim / 2 + pair;
            if channel < over {
                return 0.0;
            }
            let (i, axis) = ((channel - over) / 3, (channel - over) % 3);
            let frequency = std::f64::consts::FRAC_PI_2 * 10_000f64.powf(i as f64 / (each as f64 - 1.0));
            frequency * (2.0 * at[axis] * steps[axis])
        });
    }
}

#[test]
fn qwen2_vl() {
    // mrope_section = [16, 24, 24], one sequence of frequencies, halves.
    let kind = RopeKind::m_rope(1e6, (HEIGHT, WIDTH), [16, 24, 24], false);
    check("Qwen2-VL", kind, (2, 128), Pairing::Half, |at, _, pair| {
        let (axis, ..) = block(pair, [16, 24, 24]);
        at[axis] / 1e6f64.powf(2.0 * pair as f64 / 128.0)
    });
}

/// Qwen3-VL: all pairs are time's, then rows take pairs 1, 4, .. and columns 2, 5, .., below three times their section.
fn qwen3_axis(pair: usize) -> usize {
    let mut axis = 0;
    for (other, section) in [(1, 20), (2, 20)] {
        if (other..section * 3).step_by(3).any(|i| i == pair) {
            axis = other;
        }
    }
    axis
}

#[test]
fn qwen3_vl() {
    let kind = RopeKind::m_rope(5e6, (HEIGHT, WIDTH), [24, 20, 20], true);
    check("Qwen3-VL", kind, (2, 128), Pairing::Half, |at, _, pair| {
        at[qwen3_axis(pair)] / 5e6f64.powf(2.0 * pair as f64 / 128.0)
    });
    // The same for single tokens.
    let plain = TokenRope::new(Pairing::Half, 5e6, 128).unwrap();
    let rope = plain.clone().with_sections_in_turns([24, 20, 20]).unwrap();
    assert_eq!(rope.axes(), 3);
    let (x, at) = (numbers(2 * 128), [[3, 7], [11, 0], [5, 9]]);
    let lists = at.each_ref().map(|axis| axis.as_slice());
    let mut got = x.clone();
    rotate_rows(&mut got, 1, 128, &rope.to_positions(&lists), Angles::Exact).unwrap();
    let mut expected = x.clone();
    for (token, pair) in (0..2).flat_map(|token| (0..64).map(move |pair| (token, pair))) {
        let angle = f64::from(at[qwen3_axis(pair)][token]) * 5e6f64.powf(-(pair as f64) / 64.0);
        let (i, j) = (token * 128 + pair, token * 128 + pair + 64);
        let (a, b) = (f64::from(x[i]), f64::from(x[j]));
        expected[i] = (a * angle.cos() - b * angle.sin()) as f32;
        expected[j] = (a * angle.sin() + b * angle.cos()) as f32;
    }
    assert_close("tokens of Qwen3-VL", &got, &expected, tolerance(Op::Rotate, DType::F32));
    // Where the axes agree, it is the plain rotation.
    let same = [7, 1000];
    let mut flat = x.clone();
    rotate_rows(&mut flat, 1, 128, &plain.to_positions(&[&same]), Angles::Exact).unwrap();
    let mut turns = x.clone();
    rotate_rows(&mut turns, 1, 128, &rope.to_positions(&[&same, &same, &same]), Angles::Exact).unwrap();
    assert_eq!(flat, turns);
    assert!(matches!(plain.clone().with_sections_in_turns([20, 20, 20]), Err(RopeError::Sections { .. })));
    assert!(matches!(plain.with_sections_in_turns([4, 30, 30]), Err(RopeError::Turns { .. })));
}

#[test]
fn any_order_of_axes_and_any_part_of_a_head() {
    let layout = AxisLayout {
        pairs: Some([2, 5, 3]),
        order: AxisOrder::Blocks([Axis::Column, Axis::Time, Axis::Row]),
        skip: 1,
        ..AxisLayout::default()
    };
    let kind = RopeKind::ThreeD { theta: 100.0, height: HEIGHT, width: WIDTH, layout };
    check("columns first", kind, (2, 24), Pairing::Interleaved, |at, _, pair| match pair {
        0 | 11 => 0.0,
        1..=3 => at[2] / 100f64.powf((pair as f64 - 1.0) / 3.0),
        4 | 5 => at[0] / 100f64.powf((pair as f64 - 4.0) / 2.0),
        _ => at[1] / 100f64.powf((pair as f64 - 6.0) / 5.0),
    });
}

#[test]
fn layouts_that_cannot_be_are_refused_and_those_that_can_survive_a_file() {
    let err = |layout| {
        let kind = RopeKind::ThreeD { theta: 1e4, height: HEIGHT, width: WIDTH, layout };
        FrameRope::new(&kind, (1, 24), TOKENS).unwrap_err()
    };
    let plain = AxisLayout::default();
    let twice = AxisOrder::Blocks([Axis::Row, Axis::Row, Axis::Time]);
    assert!(matches!(err(AxisLayout { order: twice, ..plain }), RopeError::Order { .. }));
    assert!(matches!(err(AxisLayout { pairs: Some([9, 9, 9]), ..plain }), RopeError::Sections { .. }));
    assert!(matches!(err(AxisLayout { pairs: Some([0; 3]), ..plain }), RopeError::Sections { .. }));
    assert!(matches!(err(AxisLayout { pairs: Some([usize::MAX; 3]), ..plain }), RopeError::Sections { .. }));
    assert!(matches!(err(AxisLayout { thetas: Some([1e4, 0.5, 1e4]), ..plain }), RopeError::Theta { .. }));
    assert!(matches!(err(AxisLayout { scales: [f64::NAN; 3], ..plain }), RopeError::Scaling { .. }));
    let turns = AxisLayout { pairs: Some([1, 5, 5]), order: AxisOrder::InTurns, ..plain };
    assert!(matches!(err(turns), RopeError::Turns { .. }));

    let all = [
        RopeKind::None,
        RopeKind::wan(3, 5),
        RopeKind::hunyuan_video(3, 5),
        RopeKind::cogvideox(3, 5, [1.0, 0.5, 0.5]),
        RopeKind::cosmos(3, 5, [2.0, 1.0, 1.0], 0.8),
        RopeKind::ltx_video(3, 5, (32, 64), [0.01; 3]),
        RopeKind::m_rope(5e6, (3, 5), [24, 20, 20], true),
    ];
    for kind in all {
        let text = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<RopeKind>(&text).unwrap(), kind, "{text}");
    }
    let before = r#"{"kind":"3d","theta":10000.0,"height":3,"width":5}"#;
    assert_eq!(serde_json::to_string(&RopeKind::wan(3, 5)).unwrap(), before);
    let named = r#"{"kind":"3d","theta":256.0,"height":3,"width":5,"layout":{"pairs":[8,28,28]}}"#;
    assert_eq!(serde_json::from_str::<RopeKind>(named).unwrap(), RopeKind::hunyuan_video(3, 5));
}
