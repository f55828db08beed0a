//! Attention that queries to come are expected to give.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tether_core::Pairing;
use tether_dense::softmax_rows;
use tether_part::Settings;

use super::keydiff::norm;
use super::snapkv::with_head;
use crate::ScoreError;
use crate::tokens::attention::{group, group_mean};
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

/// Queries before the rotation are taken as normally distributed and rotated to the positions to come; a key's score is the softmax of the
/// expected exponential of its logit, times the length of its value (arXiv:2510.00636).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedAttention {
    /// Positions to come over which the rotation is averaged.
    pub future: usize,
    /// First tokens: they stay, and their queries do not count.
    pub sink: usize,
    /// Use the covariance of the queries, and not their mean alone.
    pub covariance: bool,
    /// Multiply by the length of the value.
    pub value_norm: bool,
    /// Added to the attention before it is multiplied.
    pub epsilon: f32,
}

impl Settings for ExpectedAttention {
    const KIND: &'static str = "expected-attention";
}

impl Default for ExpectedAttention {
    fn default() -> Self {
        Self { future: 512, sink: 4, covariance: true, value_norm: true, epsilon: 0.0 }
    }
}

impl ScoreTokens for ExpectedAttention {
    fn validate(&self) -> Result<(), ScoreError> {
        crate::tokens::scorer::at_least("score.future", self.future, 1)?;
        if self.epsilon.is_finite() && self.epsilon >= 0.0 {
            return Ok(());
        }
        let requirement = "must be finite and at least 0";
        Err(ScoreError::Setting { setting: "score.epsilon", value: self.epsilon, requirement })
    }

    fn needs(&self) -> Needs {
        Needs { raw_queries: usize::MAX, frequencies: true, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: self.sink, recent: 0 }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
        let sink = self.sink.min(tokens);
        let rest = tokens - sink;
        if rest == 0 {
            return HeadScores::new(seen.kv_heads(), tokens, vec![1.0; seen.kv_heads() * tokens]);
        }
        let (keys, values, queries) = (seen.keys()?, seen.values()?, seen.raw_queries()?);
        let rows = queries.len() / (seen.query_heads() * dim);
        // Queries of the first tokens are outliers; they are among the recorded ones only when all were recorded.
        let skipped = sink.saturating_sub(tokens - rows.min(tokens)).min(rows.saturating_sub(1));
        let next = seen.positions(0).last().map_or(0, |&p| i64::from(p) + 1);
        let turn = MeanRotation::new(seen, next, self.future)?;
        let mut logits = vec![0f32; seen.query_heads() * rest];
        logits.par_chunks_exact_mut(rest).enumerate().for_each(|(head, logits)| {
            let queries = &queries[head * rows * dim..][skipped * dim..rows * dim];
            let keys = &keys[head / group * tokens * dim..][sink * dim..tokens * dim];
            let (mean, covariance) = moments(queries, dim, self.covariance);
            let mean = turn.vector(&mean);
            let covariance = covariance.map(|c| turn.matrix(&c));
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
        let mut scores = group_mean(&logits, seen.kv_heads(), seen.query_heads(), rest);
        if self.value_norm {
            let width = seen.head_dim_v();
            for (row, values) in
                scores.chunks_exact_mut(rest).zip(values.chunks_exact((tokens * width).max(1)))
            {
                let values = values[sink * width..].chunks_exact(width.max(1));
                row.iter_mut().zip(values).for_each(|(s, v)| *s = (*s + self.epsilon) * norm(v) as f32);
            }
        }
        with_head(seen.kv_heads(), tokens, &scores)
    }
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

/// The mean of the rotations to several positions: `x_a' = c x_a - s x_b` and `x_b' = c x_b + s x_a` of each pair of channels `a` and `b`;
/// channels beyond the rotation stay as they are.
struct MeanRotation {
    pairing: Pairing,
    /// Mean cosine and sine of each pair, with what rotated channels are longer by.
    phases: Vec<[f64; 2]>,
}

impl MeanRotation {
    fn new(seen: &dyn TokenObservation, first: i64, count: usize) -> Result<Self, ScoreError> {
        let (frequencies, dim) = (seen.frequencies()?, seen.head_dim_k());
        if 2 * frequencies.len() > dim {
            return Err(ScoreError::Count {
                what: "rotary frequencies",
                expected: dim / 2,
                got: frequencies.len(),
            });
        }
        let mean = |f: &f64| {
            let angles = (first..first + count as i64).map(|p| p as f64 * f);
            let sums = angles.fold([0.0, 0.0], |[c, s], a: f64| [c + a.cos(), s + a.sin()]);
            sums.map(|s| s * f64::from(seen.attention_factor()) / count as f64)
        };
        Ok(Self { pairing: seen.pairing(), phases: frequencies.iter().map(mean).collect() })
    }

    fn vector(&self, x: &[f64]) -> Vec<f64> {
        let mut out = x.to_vec();
        for (i, [cos, sin]) in self.phases.iter().enumerate() {
            let (a, b) = self.pairing.channels(i, self.phases.len());
            out[a] = cos * x[a] - sin * x[b];
            out[b] = cos * x[b] + sin * x[a];
        }
        out
    }

    /// `R m R^T`.
    fn matrix(&self, m: &[f64]) -> Vec<f64> {
        let dim = m.len().isqrt();
        let transposed = |m: &[f64]| (0..dim * dim).map(|i| m[i % dim * dim + i / dim]).collect::<Vec<_>>();
        let rows = |m: &[f64]| m.chunks_exact(dim).flat_map(|row| self.vector(row)).collect::<Vec<_>>();
        // Rows of `m R^T` are rotated rows of `m`; columns are turned the same way.
        transposed(&rows(&transposed(&rows(m))))
    }
}
