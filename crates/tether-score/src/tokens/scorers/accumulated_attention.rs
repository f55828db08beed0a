//! Attention summed over all queries.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{Needs, PositionScore, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// Attention that a token has had from all queries so far, averaged over the query heads of a key head: H2O (arXiv:2306.14048), whose budget
/// is half heavy hitters and half the last tokens, and with `per_query` the observed attention of kvpress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccumulatedAttention {
    /// Divide by the number of queries that saw the token.
    pub per_query: bool,
    /// Share of the budget that is the last tokens.
    pub recent_share: f64,
    /// Average over all heads of the layer, so that all keep the same tokens, as Elastic Cache does (arXiv:2407.18121).
    pub shared: bool,
}

impl Settings for AccumulatedAttention {
    const KIND: &'static str = "accumulated-attention";
}

impl ScoreTokens for AccumulatedAttention {
    fn validate(&self) -> Result<(), ScoreError> {
        if (0.0..=1.0).contains(&self.recent_share) {
            return Ok(());
        }
        let (setting, value) = ("score.recent_share", self.recent_share as f32);
        Err(ScoreError::Setting { setting, value, requirement: "must lie in [0, 1]" })
    }

    fn needs(&self) -> Needs {
        Needs { accumulated_attention: true, ..Needs::default() }
    }

    fn protects(&self, kept: usize) -> Protected {
        Protected { sink: 0, recent: (kept as f64 * self.recent_share) as usize }
    }

    fn expression(&self, _: ScoreRequest, _: usize) -> Option<ScoreExpr> {
        let mut score = ScoreExpr::leaf(ScoreLeaf::AttentionSums);
        if self.shared {
            score = ScoreExpr::HeadMean(Box::new(score));
        }
        if self.per_query {
            score = ScoreExpr::Mul(vec![score, ScoreExpr::Position(PositionScore::PerQuery)]);
        }
        Some(score)
    }
}
