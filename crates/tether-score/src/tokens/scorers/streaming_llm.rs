//! Sinks and a window.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

/// The first tokens and as many of the last as fit (arXiv:2309.17453).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamingLlm {
    /// First tokens that stay.
    pub sink: usize,
}

impl Settings for StreamingLlm {
    const KIND: &'static str = "streaming-llm";
}

impl Default for StreamingLlm {
    fn default() -> Self {
        Self { sink: 4 }
    }
}

impl ScoreTokens for StreamingLlm {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: self.sink, recent: 1 }
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        let dropped = self.sink..self.sink + tokens.saturating_sub(request.kept);
        let row: Vec<f32> = (0..tokens).map(|t| if dropped.contains(&t) { 0.0 } else { 1.0 }).collect();
        HeadScores::shared(seen.kv_heads(), &row)
    }
}
