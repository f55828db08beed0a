//! Probe tokens at the positions to come.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tether_core::Pool;
use tether_dense::softmax_rows;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::attention::{group, group_mean, logits};
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation, pooled};

/// Attention of tokens that are run after the text, at the positions of the answer, and then forgotten: the text's own first and last tokens
/// again (arXiv:2603.11564). Each sees the text and the probes up to itself; what it gives to the text is summed over the probes and averaged
/// over the query heads of a key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DapQ {
    /// Probes that repeat the text's first tokens.
    pub first: usize,
    /// Probes that repeat its last tokens.
    pub last: usize,
    /// Places of a mean along the tokens, odd; 1 for none, which is what is published.
    pub kernel: usize,
    /// First tokens that stay. Not in the publication.
    pub sink: usize,
    /// Last tokens that stay, at most a quarter of the budget. Not in the publication.
    pub recent: usize,
}

impl Settings for DapQ {
    const KIND: &'static str = "dapq";
}

impl Default for DapQ {
    fn default() -> Self {
        Self { first: 4, last: 28, kernel: 1, sink: 4, recent: 8 }
    }
}

impl ScoreTokens for DapQ {
    fn validate(&self) -> Result<(), ScoreError> {
        crate::tokens::scorer::at_least("score.first + score.last", self.first + self.last, 1)?;
        if self.kernel.is_multiple_of(2) {
            let (setting, value) = ("score.kernel", self.kernel as f32);
            return Err(ScoreError::Setting { setting, value, requirement: "must be odd" });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { probe_first: self.first, probe_last: self.last, ..Needs::default() }
    }

    fn protects(&self, kept: usize) -> Protected {
        Protected { sink: self.sink, recent: self.recent.min(kept / 4) }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
        let (queries, probe_keys, keys) = (seen.probe_queries()?, seen.probe_keys()?, seen.keys()?);
        let probes = queries.len() / (seen.query_heads() * dim);
        let expected = probes * seen.kv_heads() * dim;
        if probe_keys.len() != expected {
            return Err(ScoreError::Count { what: "numbers of probe keys", expected, got: probe_keys.len() });
        }
        let mut mass = vec![0f32; seen.query_heads() * tokens];
        mass.par_chunks_exact_mut(tokens.max(1)).enumerate().for_each(|(head, mass)| {
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
            mass.iter_mut().zip(sums).for_each(|(m, s)| *m = s as f32);
        });
        let pool = if self.kernel > 1 { Pool::Mean(self.kernel) } else { Pool::None };
        let mass = pooled(&mass, tokens, pool);
        HeadScores::new(
            seen.kv_heads(),
            tokens,
            group_mean(&mass, seen.kv_heads(), seen.query_heads(), tokens),
        )
    }
}
