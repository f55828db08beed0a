//! Attention of queries to come.

use rayon::prelude::*;
use tether_core::MeanRotation;
use tether_dense::softmax_rows;

use crate::ScoreError;
use crate::tokens::TokenObservation;
use crate::tokens::attention::{group, group_mean};

/// Softmax of the expected exponentials of logits of queries at `future` positions to come, over the tokens after the
/// first `sink`.
pub(super) fn attention(
    seen: &dyn TokenObservation,
    (future, sink): (usize, usize),
    covariance: bool,
) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
    let rest = tokens - sink;
    let (keys, queries) = (seen.keys()?, seen.raw_queries()?);
    let rows = queries.len() / (seen.query_heads() * dim);
    // Queries of the first tokens are outliers; they are among the recorded ones only when all were recorded.
    let skipped = sink.saturating_sub(tokens - rows.min(tokens)).min(rows.saturating_sub(1));
    let next = seen.positions(0).last().map_or(0, |&p| i64::from(p) + 1);
    let frequencies = (seen.frequencies()?, seen.pairing());
    let rotation = MeanRotation::new(frequencies, seen.attention_factor(), (next, future), dim)?;
    let mut logits = vec![0f32; seen.query_heads() * rest];
    logits.par_chunks_exact_mut(rest).enumerate().for_each(|(head, logits)| {
        let queries = &queries[head * rows * dim..][skipped * dim..rows * dim];
        let keys = &keys[head / group * tokens * dim..][sink * dim..tokens * dim];
        let (mean, covariance) = moments(queries, dim, covariance);
        let mean = rotation.vector(&mean);
        let covariance = covariance.map(|c| rotation.matrix(&c));
        for (logit, key) in logits.iter_mut().zip(keys.chunks_exact(dim)) {
            let key: Vec<f64> = key.iter().map(|&x| x.into()).collect();
            let dot = |a: &[f64]| a.iter().zip(&key).map(|(a, k)| a * k).sum::<f64>();
            let spread = covariance
                .as_ref()
                .map_or(0.0, |c| c.chunks_exact(dim).zip(&key).map(|(row, k)| k * dot(row)).sum::<f64>());
            *logit = (dot(&mean) / (dim as f64).sqrt() + spread / (2.0 * dim as f64)) as f32;
        }
        softmax_rows(logits, rest);
    });
    Ok(group_mean(&logits, seen.kv_heads(), seen.query_heads(), rest))
}

/// Mean and covariance (`[dim, dim]`) of rows.
fn moments(rows: &[f32], dim: usize, covariance: bool) -> (Vec<f64>, Option<Vec<f64>>) {
    let count = (rows.len() / dim).max(1) as f64;
    let mut mean = vec![0f64; dim];
    for row in rows.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / count);
    }
    let covariance = covariance.then(|| {
        let mut sums = vec![0f64; dim * dim];
        let mut centred = vec![0f64; dim];
        for row in rows.chunks_exact(dim) {
            centred.iter_mut().zip(row).zip(&mean).for_each(|((c, &x), m)| *c = f64::from(x) - m);
            for (sums, &a) in sums.chunks_exact_mut(dim).zip(&centred) {
                sums.iter_mut().zip(&centred).for_each(|(s, b)| *s += a * b / count);
            }
        }
        sums
    });
    (mean, covariance)
}
