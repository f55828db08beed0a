//! Observation-window scores and selection.

use tether_core::{CoreError, DType, Pool, TokenEngine, WindowSpec};
use tether_kernels::cubecl::Runtime;

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
    let expected = reference(&bench.read(&q[0])?, &bench.read(&k[0])?, tokens, window, heads / kv_heads, dim);
    let prefix = tokens - window;
    // Head 0 only: the rest is the same code.
    let err = relative(got[..prefix].iter().map(|&x| f64::from(x)), expected);
    let timing = bench.time(sets, |i| engine.window_scores(&q[i], &k[i], &spec).map(drop))?;
    let bytes = (tokens * kv_heads * dim * 2 + kv_heads * tokens * 2) as f64;
    let shape = format!("t{tokens}_w32_q32kv8d128");
    bench.record("snapkv_score", shape, timing, (err, CLOSE), Work::Read(bytes), &dtype.to_string());
    Ok(())
}

/// Scores of key head 0.
fn reference(q: &[f32], k: &[f32], tokens: usize, window: usize, group: usize, dim: usize) -> Vec<f64> {
    use rayon::prelude::*;
    let prefix = tokens - window;
    let rows: Vec<Vec<f64>> = (0..group * window)
        .into_par_iter()
        .map(|row| {
            let query = &q[row * dim..][..dim];
            let seen = prefix + row % window + 1;
            let mut logits: Vec<f64> = k[..seen * dim]
                .chunks_exact(dim)
                .map(|key| query.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>())
                .map(|dot| dot / (dim as f64).sqrt())
                .collect();
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            logits.iter_mut().for_each(|l| *l = (*l - top).exp());
            let total: f64 = logits.iter().sum();
            logits.truncate(prefix);
            logits.iter_mut().for_each(|l| *l /= total);
            logits
        })
        .collect();
    let raw: Vec<f64> =
        (0..prefix).map(|t| rows.iter().map(|r| r[t]).sum::<f64>() / rows.len() as f64).collect();
    let at = |t: isize| usize::try_from(t).ok().and_then(|t| raw.get(t)).copied().unwrap_or(0.0);
    (0..prefix as isize).map(|t| (t - 2..=t + 2).map(at).sum::<f64>() / 5.0).collect()
}

fn top_k<R: Runtime>(bench: &mut Bench<'_, R>, tokens: usize) -> Result<(), CoreError> {
    let (rows, k, sets) = (8, 2048, 8);
    let engine = bench.engine;
    let scores =
        (0..sets).map(|i| engine.noise(&[rows, tokens], DType::F32, i)).collect::<Result<Vec<_>, _>>()?;
    let got = engine.read_indices(&engine.top_k(&scores[0], k)?)?;
    let host = bench.read(&scores[0])?;
    let wrong = (0..rows).any(|row| {
        let values = &host[row * tokens..][..tokens];
        let mut order: Vec<u32> = (0..tokens as u32).collect();
        order.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b)));
        order.truncate(k);
        order.sort_unstable();
        order != got[row * k..][..k]
    });
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
