//! Keys unlike the others.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::tokens::{Needs, ScoreExpr, ScoreRequest, ScoreTokens};

/// Minus the cosine between a key and the mean direction of all keys (arXiv:2504.15364).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDiff {}

impl Settings for KeyDiff {
    const KIND: &'static str = "keydiff";
}

impl ScoreTokens for KeyDiff {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn expression(&self, _: ScoreRequest, _: usize) -> Option<ScoreExpr> {
        Some(ScoreExpr::leaf(ScoreLeaf::KeyMeanCosine).scaled(-1.0))
    }
}

/// Length of a vector.
pub(in crate::tokens) fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}
