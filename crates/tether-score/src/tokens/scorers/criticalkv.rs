//! Two stages: attention first, then what the value does to the output.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::{Kinds, PartError, Settings, SettingsTable};

use super::SnapKv;
use crate::ScoreError;
use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens, TokenScorer};

/// Half of the budget goes to the highest base scores; the rest to the highest `(score + epsilon) * |W_o v|_1`, averaged over the query
/// heads of a key head (arXiv:2502.03805).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticalKv {
    /// The scorer of the first stage.
    pub base: TokenScorer,
    /// Share of the budget that the first stage fills.
    pub first_stage: f64,
    /// Added to base scores before they are multiplied.
    pub epsilon: f32,
}

impl Settings for CriticalKv {
    const KIND: &'static str = "criticalkv";
}

impl Default for CriticalKv {
    fn default() -> Self {
        Self { base: SnapKv::default().into_part(), first_stage: 0.5, epsilon: 1e-4 }
    }
}

impl ScoreTokens for CriticalKv {
    fn validate(&self) -> Result<(), ScoreError> {
        self.base.validate()?;
        if self.base.separates_query_heads() {
            let requirement = "its scores are of key heads, so heads must be \"grouped\"";
            return Err(ScoreError::Nested { part: "score.base", requirement });
        }
        if !(0.0..=1.0).contains(&self.first_stage) {
            let (setting, value) = ("score.first_stage", self.first_stage as f32);
            return Err(ScoreError::Setting { setting, value, requirement: "must lie in [0, 1]" });
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            let requirement = "must be finite and at least 0";
            return Err(ScoreError::Setting { setting: "score.epsilon", value: self.epsilon, requirement });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        self.base.needs().and(Needs { output_projection: true, ..Needs::default() })
    }

    fn protects(&self, kept: usize) -> Protected {
        self.base.protects(kept)
    }

    fn expression(&self, request: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let base = ScoreExpr::of(&self.base, request, tokens);
        let norms = ScoreExpr::leaf(ScoreLeaf::ProjectedValueNorm);
        let both = ScoreExpr::Mul(vec![base.clone().plus(self.epsilon), norms]);
        let count = (request.kept as f64 * self.first_stage) as usize;
        // The base's own protection must hold here too: it may protect more than ties would.
        let protected = self.base.protects(request.kept);
        Some(ScoreExpr::Raise { of: Box::new(both), by: Box::new(base), count, protected })
    }

    fn read(mut settings: SettingsTable, kinds: &Kinds<dyn ScoreTokens>) -> Result<Self, PartError> {
        let base = settings.take_part("base", kinds)?;
        let own: Self = settings.read()?;
        Ok(Self { base: base.unwrap_or(own.base), ..own })
    }
}
