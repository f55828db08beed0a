//! Queries sampled from the whole text.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{Needs, ScoreExpr, ScoreRequest, ScoreTokens};

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

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let queries = self.queries.min(tokens);
        Some(ScoreExpr::leaf(ScoreLeaf::SampledAttention { queries }).scaled(queries as f32))
    }
}
