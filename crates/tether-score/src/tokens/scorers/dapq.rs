//! Probe tokens at the positions to come.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// Attention of tokens that are run after the text, at the positions of the answer, and then forgotten: the text's own first and last tokens
/// again (arXiv:2603.11564). Each sees the text and the probes up to itself; what it gives to the text is summed over the probes and averaged
/// over the query heads of a key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DapQ {
    /// Probes that repeat the text's first tokens.
    pub first: usize,
    /// Probes that repeat its last tokens.
    pub last: usize,
    /// Places of a mean along the tokens, odd; 1 for none, which is what is published.
    pub kernel: usize,
    /// First tokens that stay. Not in the publication.
    pub sink: usize,
    /// Last tokens that stay, at most a quarter of the budget. Not in the publication.
    pub recent: usize,
}

impl Settings for DapQ {
    const KIND: &'static str = "dapq";
}

impl Default for DapQ {
    fn default() -> Self {
        Self { first: 4, last: 28, kernel: 1, sink: 4, recent: 8 }
    }
}

impl ScoreTokens for DapQ {
    fn validate(&self) -> Result<(), ScoreError> {
        crate::tokens::scorer::at_least("score.first + score.last", self.first + self.last, 1)?;
        if self.kernel.is_multiple_of(2) {
            let (setting, value) = ("score.kernel", self.kernel as f32);
            return Err(ScoreError::Setting { setting, value, requirement: "must be odd" });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { probe_first: self.first, probe_last: self.last, ..Needs::default() }
    }

    fn protects(&self, kept: usize) -> Protected {
        Protected { sink: self.sink, recent: self.recent.min(kept / 4) }
    }

    fn expression(&self, _: ScoreRequest, _: usize) -> Option<ScoreExpr> {
        let smoothing = if self.kernel > 1 { Pool::Mean(self.kernel) } else { Pool::None };
        Some(ScoreExpr::leaf(ScoreLeaf::ProbeAttention { smoothing }))
    }
}
