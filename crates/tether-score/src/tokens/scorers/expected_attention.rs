//! Attention that queries to come are expected to give.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{EndScore, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

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

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let &Self { future, covariance, value_norm, epsilon, .. } = self;
        let sink = self.sink.min(tokens);
        let score = ScoreExpr::leaf(ScoreLeaf::ExpectedAttention { future, sink, covariance });
        let score = match value_norm {
            true => {
                let lengths = ScoreExpr::leaf(ScoreLeaf::ValueNorm).after_first(sink);
                ScoreExpr::Mul(vec![score.plus(epsilon), lengths])
            }
            false => score,
        };
        Some(score.within((sink, 0), EndScore::Above))
    }
}
