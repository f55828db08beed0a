//! Observation-window scores and selection.

use tether_core::{CoreError, DType, Pool, TokenEngine, WindowProblem, WindowSpec};
use tether_kernels::cubecl::Runtime;
use tether_testing::oracle::{literal_window_scores, sorted_top_k};

use crate::Bench;
use crate::bench::{CLOSE, Work};
use crate::reference::relative;

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for tokens in [32_768, 131_072] {
        scores(bench, tokens)?;
        top_k(bench, tokens)?;
    }
    Ok(())
}

fn scores<R: Runtime>(bench: &mut Bench<'_, R>, tokens: usize) -> Result<(), CoreError> {
    let (heads, kv_heads, window, dim) = (32usize, 8usize, 32usize, 128usize);
    let (engine, dtype) = (bench.engine, bench.half());
    let spec = WindowSpec { scale: 1.0 / (dim as f32).sqrt(), pool: Pool::Mean(5) };
    let sets = Bench::<R>::sets(tokens * kv_heads * dim * dtype.bytes());
    let noise = |shape: [usize; 3], seed: usize| engine.noise(&shape, dtype, seed as u32);
    let q = (0..sets).map(|i| noise([heads, window, dim], 100 + i)).collect::<Result<Vec<_>, _>>()?;
    let k = (0..sets).map(|i| noise([kv_heads, tokens, dim], i)).collect::<Result<Vec<_>, _>>()?;
    let got = bench.read(&engine.window_scores(&q[0], &k[0], &spec)?)?;
    // Key head 0 only: the rest is the same code.
    let group = heads / kv_heads;
    let problem = WindowProblem::new(&[group, window, dim], &[1, tokens, dim], &spec)?;
    let (queries, keys) = (bench.read(&q[0])?, bench.read(&k[0])?);
    let (queries, keys) = (&queries[..group * window * dim], &keys[..tokens * dim]);
    let expected = literal_window_scores(queries, keys, &problem, &spec);
    let err =
        relative(got[..problem.prefix()].iter().copied().map(f64::from), expected.into_iter().map(f64::from));
    let timing = bench.time(sets, |i| engine.window_scores(&q[i], &k[i], &spec).map(drop))?;
    let bytes = (tokens * kv_heads * dim * 2 + kv_heads * tokens * 2) as f64;
    let shape = format!("t{tokens}_w32_q32kv8d128");
    bench.record("snapkv_score", shape, timing, (err, CLOSE), Work::Read(bytes), &dtype.to_string());
    Ok(())
}

fn top_k<R: Runtime>(bench: &mut Bench<'_, R>, tokens: usize) -> Result<(), CoreError> {
    let (rows, k, sets) = (8, 2048, 8);
    let engine = bench.engine;
    let scores =
        (0..sets).map(|i| engine.noise(&[rows, tokens], DType::F32, i)).collect::<Result<Vec<_>, _>>()?;
    let got = engine.read_indices(&engine.top_k(&scores[0], k)?)?;
    let host = bench.read(&scores[0])?;
    let wrong = sorted_top_k(&host, tokens, k) != got;
    let timing = bench.time(sets as usize, |i| engine.top_k(&scores[i], k).map(drop))?;
    let bytes = (tokens * rows * 4 + rows * k * 8) as f64;
    let err = if wrong { f64::INFINITY } else { 0.0 };
    bench.record(
        "snapkv_topk",
        format!("t{tokens}_kv8_k2048"),
        timing,
        (err, CLOSE),
        Work::Read(bytes),
        "exact, ascending",
    );
    Ok(())
}
