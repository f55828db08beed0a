//! Key norms.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::keydiff::norm;
use crate::ScoreError;
use crate::tokens::{HeadScores, Needs, ScoreRequest, ScoreTokens, TokenObservation};

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

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let keys = seen.keys()?;
        let scores = keys.chunks_exact(seen.head_dim_k()).map(|k| (-norm(k)) as f32).collect();
        HeadScores::new(seen.kv_heads(), seen.tokens(), scores)
    }
}
