//! Sinks and a window.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::tokens::{EndScore, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

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

    fn expression(&self, request: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let first = self.sink.min(tokens);
        let dropped = tokens.saturating_sub(request.kept).min(tokens - first);
        let leaves = ScoreExpr::Constant { score: 0.0, tokens: dropped };
        Some(leaves.within((first, tokens - first - dropped), EndScore::Is(1.0)))
    }
}
