//! Queries sampled from the whole text.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::attention::group_mean;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadScores, Needs, ScoreRequest, ScoreTokens, TokenObservation, sampled_rows};

/// Attention of queries at equal distances over the text, summed, and averaged over the query heads of a key head (arXiv:2504.09261).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampledAttention {
    /// Queries.
    pub queries: usize,
}

impl Settings for SampledAttention {
    const KIND: &'static str = "sampled-attention";
}

impl Default for SampledAttention {
    fn default() -> Self {
        Self { queries: 32 }
    }
}

impl ScoreTokens for SampledAttention {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.queries", self.queries, 1)
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: usize::MAX, ..Needs::default() }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        let rows = sampled_rows(seen, self.queries)?;
        let count = self.queries.min(tokens) as f32;
        let sums: Vec<f32> = rows.mean_over_queries(tokens).into_iter().map(|m| m * count).collect();
        HeadScores::new(
            seen.kv_heads(),
            tokens,
            group_mean(&sums, seen.kv_heads(), seen.query_heads(), tokens),
        )
    }
}
