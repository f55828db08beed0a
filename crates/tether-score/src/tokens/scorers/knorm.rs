//! Key norms.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::tokens::{Needs, ScoreExpr, ScoreRequest, ScoreTokens};

/// Minus the length of the key: short keys draw attention (arXiv:2406.11430).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knorm {}

impl Settings for Knorm {
    const KIND: &'static str = "knorm";
}

impl ScoreTokens for Knorm {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn expression(&self, _: ScoreRequest, _: usize) -> Option<ScoreExpr> {
        Some(ScoreExpr::leaf(ScoreLeaf::KeyNorm).scaled(-1.0))
    }
}
