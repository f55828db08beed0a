//! Rotations in place.

use tether_core::{CoreError, Engine as _, Pairing, Rotation, TokenEngine, TokenLayout, TokenShape};
use tether_kernels::cubecl::Runtime;
use tether_testing::oracle::rotate_tokens;

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::reference::relative;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let (tokens, heads, dim) = (32_768usize, 8usize, 128usize);
    let frequencies: Vec<f64> = (0..dim / 2).map(|i| 500_000f64.powf(-2.0 * i as f64 / dim as f64)).collect();
    let deltas: Vec<i32> = (0..tokens).map(|t| -((t * 7919 % 32_000) as i32)).collect();
    let rotation = Rotation {
        pairing: Pairing::Half,
        rotary_dim: dim,
        first_pair: 0,
        frequencies: &frequencies,
        axes: &[],
        deltas: &[&deltas],
        tokens_per_delta: 1,
        scale: 1.0,
    };
    let bytes = 2 * tokens * heads * dim * 2 + 4 * tokens;
    one(bench, "rope_llm", "t32768_h8d128_bf16", [tokens, heads, dim], &rotation, bytes as f64)?;

    let (frames, frame, heads) = (21usize, 1560usize, 12usize);
    let frequencies: Vec<f64> = (0..22).map(|i| 10_000f64.powf(-2.0 * f64::from(i) / 44.0)).collect();
    let deltas: Vec<i32> = (0..frames as i32).map(|f| -(f * 17 % 30)).collect();
    let rotation = Rotation {
        pairing: Pairing::Interleaved,
        rotary_dim: dim,
        first_pair: 0,
        frequencies: &frequencies,
        axes: &[],
        deltas: &[&deltas],
        tokens_per_delta: frame,
        scale: 1.0,
    };
    // 88 bytes of a row in three sectors of 32.
    let bytes = 2 * frames * frame * heads * 96;
    let shape = [frames * frame, heads, dim];
    one(bench, "rope_video_t", "f21x1560_h12d128_t44", shape, &rotation, bytes as f64)
}

fn one<R: Runtime>(
    bench: &mut Bench<'_, R>,
    op: &'static str,
    name: &str,
    shape: [usize; 3],
    rotation: &Rotation<'_>,
    bytes: f64,
) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    let table = engine.upload_rotation(rotation)?;
    let before = engine.noise(&shape, dtype, 1)?;
    let host = bench.read(&before)?;
    let after = engine.rotated(&before, TokenLayout::Nhd, &table)?;
    let mut in_place = engine.noise(&shape, dtype, 1)?;
    engine.rotate(&mut in_place, TokenLayout::Nhd, &table)?;
    let expected = rotate_tokens(&host, &TokenShape::of("x", &shape, TokenLayout::Nhd)?, rotation);
    let wide = |v: &[f32]| v.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let err = |got: Vec<f32>| relative(wide(&got), wide(&expected));
    let err = err(bench.read(&after)?).max(err(bench.read(&in_place)?));
    let sets = Bench::<R>::sets(shape.iter().product::<usize>() * dtype.bytes());
    let mut all = (0..sets).map(|i| engine.noise(&shape, dtype, i as u32)).collect::<Result<Vec<_>, _>>()?;
    let timing = bench.time(sets, |i| engine.rotate(&mut all[i], TokenLayout::Nhd, &table))?;
    bench.record(op, name, timing, (err, CLOSE), Work::Copy(bytes), &dtype.to_string());
    Ok(())
}
