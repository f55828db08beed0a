//! What step reuse does to a step's tensors, at the token shape of Wan2.1-14B: signals, residuals, ladders, corrected sums.

use tether_core::CoreError;
use tether_kernels::cubecl::Runtime;
use tether_kernels::{CubeReuseError, CubeTensor};
use tether_reuse::{Base, Grid, Reduction, ReuseEngine};
use tether_testing::oracle::{literal_combination, literal_ladder, literal_signal};

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::reference::relative;

const TOKENS: usize = 32_760;
const CHANNELS: usize = 5120;
const GRID: Grid = Grid { frames: 21, tokens: TOKENS };
const SHAPE: &str = "t32760_c5120";
/// Largest relative error of a signal.
const SIGNAL: f64 = 1e-5;
/// Tokens at each end of a result that are compared.
const EDGE: usize = 20;

fn core(error: CubeReuseError) -> CoreError {
    match error {
        CubeReuseError::Engine(error) => error,
        other => CoreError::Device { engine: "step reuse", message: other.to_string() },
    }
}

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    let noise = |seed| engine.noise(&[TOKENS, CHANNELS], dtype, seed);
    let (a, b) = (noise(1)?, noise(2)?);
    signals(bench, &a, &b)?;
    let cached = [noise(3)?, noise(4)?, noise(5)?];
    corrections(bench, &a, &b, cached)
}

/// Bytes of a tensor, of which no cache holds much.
fn bytes(tensor: &CubeTensor) -> f64 {
    (TOKENS * CHANNELS * tensor.dtype().bytes()) as f64
}

/// Sums over whole tensors: queued one after another, and each waited for as a step does.
fn signals<R: Runtime>(bench: &mut Bench<'_, R>, a: &CubeTensor, b: &CubeTensor) -> Result<(), CoreError> {
    fn asked<'t, T: ?Sized>(op: &str, a: &'t T, b: &'t T) -> Vec<Reduction<'t, T>> {
        match op {
            "reuse_mean_abs" => vec![Reduction::MeanAbs(a)],
            "reuse_rel_l1" => vec![Reduction::RelL1(a, b)],
            "reuse_three_signals" => {
                vec![Reduction::MeanAbs(a), Reduction::MeanAbsDiff(a, b), Reduction::RelL1(a, b)]
            }
            "reuse_token_ratio" => vec![Reduction::TokenRatio(a, b)],
            _ => vec![Reduction::FrameMotion(a)],
        }
    }
    let engine = bench.engine;
    let (host_a, host_b) = (bench.read(a)?, bench.read(b)?);
    for (op, tensors) in [
        ("reuse_mean_abs", 1.0),
        ("reuse_rel_l1", 2.0),
        ("reuse_three_signals", 2.0),
        ("reuse_token_ratio", 2.0),
        // A frame and the one before it: all but one frame twice.
        ("reuse_frame_motion", 2.0 * 20.0 / 21.0),
    ] {
        let reductions = asked(op, a, b);
        let got = engine.measure(&reductions, GRID).map_err(core)?;
        let expected = asked(op, &host_a[..], &host_b[..]);
        let err = relative(got.iter().copied(), expected.iter().map(|r| literal_signal(r, GRID)));
        let work = Work::Copy(tensors * bytes(a));
        let queued = bench.time(1, |_| engine.queue_signals(&reductions, GRID).map(drop).map_err(core))?;
        let note = format!("{}; bytes read, beside those that a copy reads and writes", a.dtype());
        bench.record(op, SHAPE, queued, (err, SIGNAL), work, &note);
        if op == "reuse_rel_l1" {
            let waited = bench.time(1, |_| engine.measure(&reductions, GRID).map(drop).map_err(core))?;
            let note = format!("{note}; each is waited for");
            bench.record("reuse_rel_l1_read", SHAPE, waited, (err, SIGNAL), work, &note);
        }
    }
    Ok(())
}

/// The first and last tokens of a tensor.
fn edges<R: Runtime>(bench: &Bench<'_, R>, tensor: &CubeTensor) -> Result<Vec<f32>, CoreError> {
    let all = bench.read(tensor)?;
    let edge = EDGE * CHANNELS;
    Ok([&all[..edge], &all[all.len() - edge..]].concat())
}

/// One pass each: residual, sum, ladder of three rungs, extrapolation.
fn corrections<R: Runtime>(
    bench: &mut Bench<'_, R>,
    x: &CubeTensor,
    value: &CubeTensor,
    mut ladder: [CubeTensor; 3],
) -> Result<(), CoreError> {
    let (engine, note) = (bench.engine, x.dtype().to_string());
    let mut out = engine.noise(&[TOKENS, CHANNELS], x.dtype(), 6)?;
    let wide = |x: Vec<f32>| x.into_iter().map(f64::from);
    let (on_x, on_value) = (edges(bench, x)?, edges(bench, value)?);
    let streams = |count: f64| Work::Copy(count * bytes(x));

    engine.difference(value, x, &mut out).map_err(core)?;
    let literal = literal_combination(None, &[(1.0, &on_value), (-1.0, &on_x)], None, on_x.len());
    let err = relative(wide(edges(bench, &out)?), literal);
    let timing = bench.time(1, |_| engine.difference(value, x, &mut out).map_err(core))?;
    bench.record("reuse_difference", SHAPE, timing, (err, CLOSE), streams(3.0), &note);

    let slopes: Vec<f32> = (0..CHANNELS).map(|i| 0.1 * (i as f32).sin()).collect();
    let offsets: Vec<f32> = (0..CHANNELS).map(|i| 0.2 * (i as f32).cos()).collect();
    for (op, channels) in [("reuse_add_affine", 1), ("reuse_add_affine_channels", CHANNELS)] {
        let affine = Some((&slopes[..channels], &offsets[..channels]));
        engine.combine(Base::Tensor(x), &[(1.0, value)], affine, &mut out).map_err(core)?;
        let literal = literal_combination(Some(&on_x), &[(1.0, &on_value)], affine, on_x.len());
        let err = relative(wide(edges(bench, &out)?), literal);
        let timing = bench
            .time(1, |_| engine.combine(Base::Tensor(x), &[(1.0, value)], affine, &mut out).map_err(core))?;
        bench.record(op, SHAPE, timing, (err, CLOSE), streams(3.0), &note);
    }

    let before = ladder.iter().map(|rung| edges(bench, rung)).collect::<Result<Vec<_>, _>>()?;
    let weights = [1.0, 0.75, -0.5];
    let host: Vec<(f32, &[f32])> = weights.into_iter().zip(before.iter().map(|r| &r[..])).collect();
    let extrapolate = |out: &mut CubeTensor| {
        let terms = [(weights[0], &ladder[0]), (weights[1], &ladder[1]), (weights[2], &ladder[2])];
        engine.combine(Base::Tensor(x), &terms, None, out).map_err(core)
    };
    extrapolate(&mut out)?;
    let err = relative(wide(edges(bench, &out)?), literal_combination(Some(&on_x), &host, None, on_x.len()));
    let timing = bench.time(1, |_| extrapolate(&mut out))?;
    bench.record("reuse_extrapolate_o2", SHAPE, timing, (err, CLOSE), streams(5.0), &note);

    engine.climb(value, &mut ladder, 3, 2.0).map_err(core)?;
    let got = ladder.iter().map(|rung| edges(bench, rung)).collect::<Result<Vec<_>, _>>()?;
    let literal = literal_ladder(&on_value, &before, 3, 2.0);
    let err = relative(wide(got.concat()), literal.into_iter().flatten().flatten());
    let timing = bench.time(1, |_| engine.climb(value, &mut ladder, 3, 2.0).map_err(core))?;
    bench.record("reuse_ladder_o2", SHAPE, timing, (err, CLOSE), streams(6.0), &note);
    Ok(())
}
