//! What is attended to and not said twice.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tether_core::Pool;
use tether_dense::softmax_rows;
use tether_part::Settings;

use super::keydiff::norm;
use super::snapkv::with_tail;
use crate::ScoreError;
use crate::tokens::attention::{group, logits, mean_of_rows};
use crate::tokens::scorer::{at_least, odd};
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation, pooled};

/// Attention of the last queries, less the likeness of a key to the others (`FlowCache`, arXiv:2602.10825): `importance * I - (1 - importance) * R`.
///
/// `I` is the attention of the last queries to the tokens before them alone, the largest logit of a key head's query heads standing for all, averaged over queries, then the largest of
/// `kernel` places. `R` is the softmax over tokens of the mean cosine of a token's key and the other keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportanceRedundancy {
    /// Queries that are asked; their tokens always stay.
    pub window: usize,
    /// Places of the smoothing by the largest, odd; 1 for none.
    pub kernel: usize,
    /// Weight of importance, 0 to 1; the rest is that of redundancy.
    pub importance: f32,
}

impl Settings for ImportanceRedundancy {
    const KIND: &'static str = "importance-redundancy";
}

impl Default for ImportanceRedundancy {
    fn default() -> Self {
        Self { window: 50, kernel: 7, importance: 0.07 }
    }
}

impl ScoreTokens for ImportanceRedundancy {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.window", self.window, 1)?;
        odd("score.kernel", self.kernel)?;
        if !(0.0..=1.0).contains(&self.importance) {
            let (setting, value) = ("score.importance", self.importance);
            return Err(ScoreError::Setting { setting, value, requirement: "must be 0 to 1" });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: self.window, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: self.window }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
        let (heads, window) = (seen.kv_heads(), self.window.min(tokens));
        let prefix = tokens - window;
        if prefix == 0 {
            return HeadScores::new(heads, tokens, vec![1.0; heads * tokens]);
        }
        let (queries, keys) = (seen.queries(window)?, seen.keys()?);
        let mut scores = vec![0f32; heads * prefix];
        scores.par_chunks_exact_mut(prefix).enumerate().for_each(|(head, scores)| {
            let queries = &queries[head * group * window * dim..][..group * window * dim];
            let keys = &keys[head * tokens * dim..][..prefix * dim];
            let mean = importance(queries, keys, (window, dim));
            let pool = if self.kernel == 1 { Pool::None } else { Pool::Max(self.kernel) };
            let redundancy = redundancy(keys, dim);
            for ((score, i), r) in scores.iter_mut().zip(pooled(&mean, prefix, pool)).zip(redundancy) {
                let weight = f64::from(self.importance);
                *score = (weight * f64::from(i) - (1.0 - weight) * r) as f32;
            }
        });
        with_tail(heads, tokens, &scores)
    }
}

/// Mean over queries of their attention to `keys`, where the largest logit over the query heads of a key head counts. `queries` is
/// `[query heads, window, dim]`.
fn importance(queries: &[f32], keys: &[f32], (window, dim): (usize, usize)) -> Vec<f32> {
    let tokens = keys.len() / dim;
    let mut largest = vec![f32::NEG_INFINITY; window * tokens];
    let mut of_head = vec![0f32; window * tokens];
    for queries in queries.chunks_exact(window * dim) {
        logits(&mut of_head, queries, keys, dim);
        largest.iter_mut().zip(&of_head).for_each(|(l, &x)| *l = l.max(x));
    }
    softmax_rows(&mut largest, tokens);
    mean_of_rows(&largest, tokens, tokens)
}

/// What keeps a key of no length from being divided by it.
const EPSILON: f64 = 1e-8;

/// Softmax over tokens of the mean cosine of each key and the others.
fn redundancy(keys: &[f32], dim: usize) -> Vec<f64> {
    let tokens = keys.len() / dim;
    let lengths: Vec<f64> = keys.chunks_exact(dim).map(|key| norm(key) + EPSILON).collect();
    let mut sum = vec![0f64; dim];
    for (key, length) in keys.chunks_exact(dim).zip(&lengths) {
        sum.iter_mut().zip(key).for_each(|(s, &x)| *s += f64::from(x) / length);
    }
    // The cosine of a key and itself is among the sum; a single key is like no other.
    let mean = |(key, length): (&[f32], &f64)| {
        let dot: f64 = key.iter().zip(&sum).map(|(&x, s)| f64::from(x) * s).sum();
        let own = (length - EPSILON) / length;
        (dot / length - own * own) / tokens as f64
    };
    let means: Vec<f64> = keys.chunks_exact(dim).zip(&lengths).map(mean).collect();
    let highest = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = means.iter().map(|m| (m - highest).exp()).sum();
    means.iter().map(|m| (m - highest).exp() / total).collect()
}
