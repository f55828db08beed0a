//! Attention weights of recorded queries, reduced on the host without forming a square matrix.

use rayon::prelude::*;
use tether_core::Pool;
use tether_dense::{MatRef, matmul, softmax_rows};

use crate::ScoreError;
use crate::tokens::TokenObservation;

/// Attention weights of the last queries of a text: `[query_heads, window, tokens]`, zero where a query does not see.
#[derive(Clone, Debug)]
pub struct WindowRows {
    window: usize,
    tokens: usize,
    weights: Vec<f32>,
}

impl WindowRows {
    /// The weights of one query head, `[window, tokens]`.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head(&self, head: usize) -> &[f32] {
        let len = self.window * self.tokens;
        &self.weights[head * len..(head + 1) * len]
    }

    /// Means over the queries of the first `prefix` columns, `[query_heads, prefix]`.
    pub fn mean_over_queries(&self, prefix: usize) -> Vec<f32> {
        let heads = self.weights.chunks_exact(self.window * self.tokens);
        heads.flat_map(|head| mean_of_rows(head, self.tokens, prefix)).collect()
    }
}

/// Means of the first `prefix` columns of `rows`, `[any, tokens]`.
pub(super) fn mean_of_rows(rows: &[f32], tokens: usize, prefix: usize) -> Vec<f32> {
    let count = (rows.len() / tokens) as f64;
    let mut sums = vec![0f64; prefix];
    for row in rows.chunks_exact(tokens) {
        sums.iter_mut().zip(row).for_each(|(s, &w)| *s += f64::from(w));
    }
    sums.into_iter().map(|s| (s / count) as f32).collect()
}

/// Heads that group evenly.
pub(super) fn group(seen: &(impl TokenObservation + ?Sized)) -> Result<usize, ScoreError> {
    let (query_heads, kv_heads, dim) = (seen.query_heads(), seen.kv_heads(), seen.head_dim_k());
    if kv_heads == 0 || query_heads == 0 || dim == 0 || !query_heads.is_multiple_of(kv_heads) {
        return Err(ScoreError::Heads { query_heads, kv_heads, dim });
    }
    Ok(query_heads / kv_heads)
}

/// Softmax of the last `window` queries over the tokens that each sees.
///
/// # Errors
/// [`ScoreError::Missing`], [`ScoreError::Heads`], [`ScoreError::Setting`] for a window that is empty or longer than the text.
pub fn window_rows(seen: &(impl TokenObservation + ?Sized), window: usize) -> Result<WindowRows, ScoreError> {
    let tokens = seen.tokens();
    if window == 0 || window > tokens {
        let requirement = "must be at least 1 and at most the tokens there are";
        return Err(ScoreError::Setting { setting: "window", value: window as f32, requirement });
    }
    let group = group(seen)?;
    let dim = seen.head_dim_k();
    let (queries, keys) = (seen.queries(window)?, seen.keys()?);
    let mut weights = vec![0f32; seen.query_heads() * window * tokens];
    weights.par_chunks_exact_mut(window * tokens).enumerate().for_each(|(head, rows)| {
        let queries = &queries[head * window * dim..][..window * dim];
        let keys = &keys[head / group * tokens * dim..][..tokens * dim];
        if window == 1 {
            // Nothing averages over the rounding of logits, which is a relative error of weights; one row costs little.
            return one_row(rows, queries, keys, dim);
        }
        logits(rows, queries, keys, dim);
        for (row, place) in rows.chunks_exact_mut(tokens).zip(tokens - window..) {
            // A query does not see the tokens after its own.
            row[place + 1..].fill(0.0);
            softmax_rows(&mut row[..=place], place + 1);
        }
    });
    Ok(WindowRows { window, tokens, weights })
}

/// Softmax of one query over all keys, in `f64`.
fn one_row(weights: &mut [f32], query: &[f32], keys: &[f32], dim: usize) {
    let scale = 1.0 / (dim as f64).sqrt();
    let dot = |key: &[f32]| key.iter().zip(query).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>();
    let logits: Vec<f64> = keys.chunks_exact(dim).map(|key| dot(key) * scale).collect();
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weigh = |logit: f64| (logit - highest).exp();
    let total: f64 = logits.iter().map(|&l| weigh(l)).sum();
    weights.iter_mut().zip(logits).for_each(|(w, l)| *w = (weigh(l) / total) as f32);
}

/// Attention weights of `count` queries at equal distances over the text, the last one included: `[query_heads, count, tokens]`, zero where a
/// query does not see.
///
/// # Errors
/// [`ScoreError::Missing`] unless all queries were recorded, [`ScoreError::Heads`].
pub fn sampled_rows(seen: &(impl TokenObservation + ?Sized), count: usize) -> Result<WindowRows, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let count = count.min(tokens);
    let (queries, keys) = (seen.queries(tokens)?, seen.keys()?);
    let places: Vec<usize> = (1..=count).map(|i| i * tokens / count - 1).collect();
    let mut weights = vec![0f32; seen.query_heads() * count * tokens];
    weights.par_chunks_exact_mut((count * tokens).max(1)).enumerate().for_each(|(head, rows)| {
        let queries = &queries[head * tokens * dim..][..tokens * dim];
        let sampled: Vec<f32> = places.iter().flat_map(|&p| &queries[p * dim..][..dim]).copied().collect();
        logits(rows, &sampled, &keys[head / group * tokens * dim..][..tokens * dim], dim);
        for (row, &place) in rows.chunks_exact_mut(tokens).zip(&places) {
            row[place + 1..].fill(0.0);
            softmax_rows(&mut row[..=place], place + 1);
        }
    });
    Ok(WindowRows { window: count, tokens, weights })
}

/// `queries . keys / sqrt(dim)`, `[queries, keys]`.
pub(super) fn logits(out: &mut [f32], queries: &[f32], keys: &[f32], dim: usize) {
    let scale = 1.0 / (dim as f32).sqrt();
    let queries: Vec<f32> = queries.iter().map(|x| x * scale).collect();
    let (rows, tokens) = (queries.len() / dim, keys.len() / dim);
    let keys = MatRef::row_major(keys, tokens, dim, dim).transposed();
    matmul(out, tokens, 0.0, MatRef::row_major(&queries, rows, dim, dim), keys);
}

/// Queries of a block: enough for the matrix product, few enough that a block of logits stays small.
const BLOCK: usize = 64;

/// Causal attention summed over all queries, `[query_heads, tokens]`.
pub(super) fn column_mass(seen: &(impl TokenObservation + ?Sized)) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let (queries, keys) = (seen.queries(tokens)?, seen.keys()?);
    let mut mass = vec![0f32; seen.query_heads() * tokens];
    if tokens == 0 {
        return Ok(mass);
    }
    mass.par_chunks_exact_mut(tokens).enumerate().for_each(|(head, mass)| {
        let queries = &queries[head * tokens * dim..][..tokens * dim];
        let keys = &keys[head / group * tokens * dim..][..tokens * dim];
        let mut sums = vec![0f64; tokens];
        let mut block = vec![0f32; BLOCK.min(tokens) * tokens];
        for first in (0..tokens).step_by(BLOCK) {
            let rows = BLOCK.min(tokens - first);
            let visible = first + rows;
            let block = &mut block[..rows * visible];
            logits(block, &queries[first * dim..visible * dim], &keys[..visible * dim], dim);
            for (row, place) in block.chunks_exact_mut(visible).zip(first..) {
                softmax_rows(&mut row[..=place], place + 1);
                sums.iter_mut().zip(&row[..=place]).for_each(|(s, &w)| *s += f64::from(w));
            }
        }
        mass.iter_mut().zip(sums).for_each(|(m, s)| *m = s as f32);
    });
    Ok(mass)
}

/// Adds the attention of the last tokens, with rotated queries `queries` `[n, dim]`, to what each of the tokens with rotated keys `keys`
/// `[mass.len(), dim]` has got so far: what [`TokenObservation::accumulated_attention`] sums for one query head, as it happens.
pub fn add_causal_mass(mass: &mut [f32], queries: &[f32], keys: &[f32], dim: usize) {
    let tokens = mass.len();
    let past = tokens - (queries.len() / dim).min(tokens);
    let mut block = vec![0f32; BLOCK.min(tokens) * tokens];
    for (number, queries) in queries.chunks(BLOCK * dim).enumerate() {
        let rows = queries.len() / dim;
        let first = past + number * BLOCK;
        let visible = first + rows;
        let block = &mut block[..rows * visible];
        logits(block, queries, &keys[..visible * dim], dim);
        for (row, place) in block.chunks_exact_mut(visible).zip(first..) {
            softmax_rows(&mut row[..=place], place + 1);
            mass.iter_mut().zip(&row[..=place]).for_each(|(m, &w)| *m += w);
        }
    }
}

/// Each row of `rows` (`[_, columns]`) smoothed along its columns; see [`Pool`].
pub fn pooled(rows: &[f32], columns: usize, pool: Pool) -> Vec<f32> {
    if pool.size() <= 1 || columns == 0 {
        return rows.to_vec();
    }
    rows.chunks_exact(columns).flat_map(|row| pool.smoothed(row)).collect()
}

/// Means of the query heads of each key head: `[query_heads, columns]` to `[kv_heads, columns]`.
pub(super) fn group_mean(rows: &[f32], kv_heads: usize, query_heads: usize, columns: usize) -> Vec<f32> {
    let group = query_heads / kv_heads.max(1);
    let mut means = vec![0f32; kv_heads * columns];
    if columns == 0 || group == 0 {
        return means;
    }
    for (head, row) in rows.chunks_exact(columns).enumerate() {
        let mean = &mut means[head / group * columns..][..columns];
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / group as f32);
    }
    means
}
