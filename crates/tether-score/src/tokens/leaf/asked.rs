//! Leaves of queries and keys.

use rayon::prelude::*;
use tether_core::Pool;
use tether_dense::softmax_rows;

use crate::ScoreError;
use crate::tokens::attention::{group, group_mean, logits, mean_of_rows};
use crate::tokens::scorers::mean_row;
use crate::tokens::{TokenObservation, pooled, sampled_rows};

/// Attention of queries at equal distances over the text.
pub(super) fn sampled(seen: &dyn TokenObservation, queries: usize) -> Result<Vec<f32>, ScoreError> {
    let (heads, tokens) = (seen.kv_heads(), seen.tokens());
    let means = sampled_rows(seen, queries)?.mean_over_queries(tokens);
    Ok(group_mean(&means, heads, seen.query_heads(), tokens))
}

/// Attention of the last queries to the tokens before them alone, where the largest logit over the query heads of a
/// key head counts.
pub(super) fn largest(seen: &dyn TokenObservation, window: usize) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let prefix = tokens - window;
    let (queries, keys) = (seen.queries(window)?, seen.keys()?);
    let mut means = vec![0f32; seen.kv_heads() * prefix];
    means.par_chunks_exact_mut(prefix).enumerate().for_each(|(head, means)| {
        let queries = &queries[head * group * window * dim..][..group * window * dim];
        let keys = &keys[head * tokens * dim..][..prefix * dim];
        let mut largest = vec![f32::NEG_INFINITY; window * prefix];
        let mut of_head = vec![0f32; window * prefix];
        for queries in queries.chunks_exact(window * dim) {
            logits(&mut of_head, queries, keys, dim);
            largest.iter_mut().zip(&of_head).for_each(|(l, &x)| *l = l.max(x));
        }
        softmax_rows(&mut largest, prefix);
        means.copy_from_slice(&mean_of_rows(&largest, prefix, prefix));
    });
    Ok(means)
}

/// Attention of the last queries to spans of the tokens before them: the mean of the best of each span.
pub(super) fn spans(
    seen: &dyn TokenObservation,
    window: usize,
    (span, best): (usize, usize),
) -> Result<Vec<f32>, ScoreError> {
    let prefix = seen.tokens() - window;
    let rows = seen.window_mass_by_query(window)?;
    let worth = |span: &[f32]| {
        let mut weights = span.to_vec();
        weights.sort_by(|a, b| b.total_cmp(a));
        weights.truncate(best);
        (weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len() as f64) as f32
    };
    let worths: Vec<f32> = rows.chunks_exact(prefix).flat_map(|row| row.chunks(span).map(worth)).collect();
    Ok(group_mean(&worths, seen.kv_heads(), seen.query_heads(), prefix.div_ceil(span)))
}

/// Attention of probes, which see the text and the probes up to themselves.
pub(super) fn probes(seen: &dyn TokenObservation, smoothing: Pool) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let (queries, probe_keys, keys) = (seen.probe_queries()?, seen.probe_keys()?, seen.keys()?);
    let probes = queries.len() / (seen.query_heads() * dim);
    let expected = probes * seen.kv_heads() * dim;
    if probe_keys.len() != expected {
        return Err(ScoreError::Count { what: "numbers of probe keys", expected, got: probe_keys.len() });
    }
    let mut sums = vec![0f32; seen.query_heads() * tokens];
    sums.par_chunks_exact_mut(tokens).enumerate().for_each(|(head, of_head)| {
        let all = tokens + probes;
        let own = &keys[head / group * tokens * dim..][..tokens * dim];
        let after = &probe_keys[head / group * probes * dim..][..probes * dim];
        let both: Vec<f32> = own.iter().chain(after).copied().collect();
        let mut rows = vec![0f32; probes * all];
        logits(&mut rows, &queries[head * probes * dim..][..probes * dim], &both, dim);
        let mut sums = vec![0f64; tokens];
        for (probe, row) in rows.chunks_exact_mut(all).enumerate() {
            let visible = tokens + probe + 1;
            softmax_rows(&mut row[..visible], visible);
            sums.iter_mut().zip(&row[..tokens]).for_each(|(s, &w)| *s += f64::from(w));
        }
        of_head.iter_mut().zip(sums).for_each(|(m, s)| *m = s as f32);
    });
    let sums = pooled(&sums, tokens, smoothing);
    Ok(group_mean(&sums, seen.kv_heads(), seen.query_heads(), tokens))
}

/// Mean logit of the last queries, over them and over the query heads of a key head.
pub(super) fn mean_logits(seen: &dyn TokenObservation, queries: usize) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let (asked, keys) = (seen.queries(queries)?, seen.keys()?);
    let scale = (dim as f64).sqrt();
    let mut logits = Vec::with_capacity(seen.kv_heads() * tokens);
    for (head, keys) in keys.chunks_exact(tokens * dim).enumerate() {
        let mean = mean_row(&asked[head * group * queries * dim..][..group * queries * dim], dim);
        logits.extend(
            keys.chunks_exact(dim).map(|key| {
                (key.iter().zip(&mean).map(|(&k, q)| f64::from(k) * q).sum::<f64>() / scale) as f32
            }),
        );
    }
    Ok(logits)
}
