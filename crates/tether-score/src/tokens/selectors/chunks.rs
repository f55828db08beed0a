//! Whole chunks, the same in all heads.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::spans::{by_mean, fill, spans};
use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadShare, ScoreSpans, SelectScope, SelectTokens};

/// Whole chunks of consecutive tokens, the same in all heads (`ChunkKV`, arXiv:2502.00299).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunks {
    /// Tokens of a chunk.
    pub length: usize,
}

impl Settings for Chunks {
    const KIND: &'static str = "chunks";
}

impl SelectTokens for Chunks {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("select.length", self.length, 1)
    }

    fn scope(&self) -> SelectScope {
        SelectScope::Shared
    }

    fn spans(&self, _: HeadShare, tokens: usize) -> Option<ScoreSpans> {
        Some(ScoreSpans { first: 0, size: self.length, end: tokens })
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let tokens = rows.first().map_or(0, |row| row.len());
        let spans = spans(tokens, self.length);
        let order = by_mean(rows, &spans);
        let count = (spans.len() as f64 * share.kept as f64 / tokens.max(1) as f64 + 1e-9) as usize;
        Ok(fill(share, tokens, &spans, &order, count.max(1)))
    }
}
