//! Chance, the control.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::tokens::arithmetic::mixed;
use crate::tokens::{Needs, PositionScore, ScoreExpr, ScoreRequest, ScoreTokens};

/// Numbers that depend on seed, layer and position only, so that what has lost once does not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomScore {
    /// Seed.
    #[serde(default)]
    pub seed: u64,
}

impl Settings for RandomScore {
    const KIND: &'static str = "random";
}

impl ScoreTokens for RandomScore {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn expression(&self, request: ScoreRequest, _: usize) -> Option<ScoreExpr> {
        let seed = mixed(self.seed ^ mixed(request.layer as u64));
        Some(ScoreExpr::Position(PositionScore::Noise { seed }))
    }
}
