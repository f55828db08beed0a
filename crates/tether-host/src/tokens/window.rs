//! Observation-window scores.

use rayon::prelude::*;

use tether_core::{Pool, TensorData, WindowProblem, WindowSpec};
use tether_dense::{MatRef, matmul, softmax_rows};

/// `[kv_heads, prefix]`.
pub(super) fn scores(
    problem: &WindowProblem,
    spec: &WindowSpec,
    q: &TensorData,
    k: &TensorData,
    parallel: bool,
) -> Vec<f32> {
    if problem.prefix() == 0 {
        return Vec::new();
    }
    let of_head = |head: usize| head_scores(problem, spec, head, q, k);
    let heads: Vec<Vec<f32>> = if parallel {
        (0..problem.kv_heads).into_par_iter().map(of_head).collect()
    } else {
        (0..problem.kv_heads).map(of_head).collect()
    };
    heads.concat()
}

fn head_scores(
    problem: &WindowProblem,
    spec: &WindowSpec,
    kv_head: usize,
    q: &TensorData,
    k: &TensorData,
) -> Vec<f32> {
    let &WindowProblem { window, tokens, group, head_dim, .. } = problem;
    let keys = k.widened(kv_head * tokens * head_dim..(kv_head + 1) * tokens * head_dim);
    let keys = MatRef::row_major(&keys, tokens, head_dim, head_dim).transposed();
    let mut scores = vec![0f32; problem.prefix()];
    let mut weights = vec![0f32; window * tokens];
    for head in kv_head * group..(kv_head + 1) * group {
        let queries = q.widened(head * window * head_dim..(head + 1) * window * head_dim);
        let queries: Vec<f32> = queries.iter().map(|x| x * spec.scale).collect();
        matmul(&mut weights, tokens, 0.0, MatRef::row_major(&queries, window, head_dim, head_dim), keys);
        let mut mean = vec![0f32; problem.prefix()];
        for (place, row) in weights.chunks_exact_mut(tokens).enumerate() {
            // A query of the window does not see those after it.
            let seen = problem.prefix() + place + 1;
            softmax_rows(&mut row[..seen], seen);
            mean.iter_mut().zip(row).for_each(|(m, w)| *m += *w);
        }
        mean.iter_mut().for_each(|m| *m /= window as f32);
        let smoothed = smoothed(&mean, spec.pool);
        scores.iter_mut().zip(smoothed).for_each(|(s, x)| *s += x / group as f32);
    }
    scores
}

fn smoothed(scores: &[f32], pool: Pool) -> Vec<f32> {
    let half = pool.size() / 2;
    let around = |i: usize| &scores[i.saturating_sub(half)..scores.len().min(i + half + 1)];
    match pool {
        Pool::None => scores.to_vec(),
        Pool::Mean(size) => (0..scores.len()).map(|i| around(i).iter().sum::<f32>() / size as f32).collect(),
        Pool::Max(_) => (0..scores.len()).map(|i| around(i).iter().copied().fold(0.0, f32::max)).collect(),
    }
}
