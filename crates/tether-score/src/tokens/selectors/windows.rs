//! Whole windows, the same in all heads.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::spans::{by_mean, fill, spans};
use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadShare, ScoreSpans, SelectScope, SelectTokens};

/// Whole windows of consecutive tokens before the protected last ones, the same in all heads (`WindowKV`, arXiv:2503.17922).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Tokens of a window.
    pub size: usize,
}

impl Settings for Windows {
    const KIND: &'static str = "windows";
}

impl SelectTokens for Windows {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("select.size", self.size, 1)
    }

    fn scope(&self) -> SelectScope {
        SelectScope::Shared
    }

    fn spans(&self, share: HeadShare, tokens: usize) -> Option<ScoreSpans> {
        let end = tokens - share.protected.within(share.kept, tokens).recent;
        Some(ScoreSpans { first: 0, size: self.size, end })
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let tokens = rows.first().map_or(0, |row| row.len());
        let protected = share.protected.within(share.kept, tokens);
        let review = tokens - protected.recent;
        let spans = spans(review, self.size);
        let order = by_mean(rows, &spans);
        let dropped = (review - (share.kept - protected.recent).min(review)).div_ceil(self.size);
        Ok(fill(share, tokens, &spans, &order, spans.len().saturating_sub(dropped)))
    }
}
