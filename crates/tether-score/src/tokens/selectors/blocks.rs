//! A number of blocks, the same in all heads.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::spans::{by_mean, fill, spans};
use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadShare, Protected, ScoreSpans, SelectScope, SelectTokens};

/// A number of blocks of consecutive tokens between the protected ones, the same in all heads, in runs of `chunk` blocks (`ReKV`,
/// arXiv:2503.00540). Tokens at the end that do not fill a block stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// Tokens of a block.
    pub size: usize,
    /// Blocks that stay.
    pub top: usize,
    /// Neighbouring blocks that are chosen together; `top` is a multiple.
    pub chunk: usize,
}

impl Settings for Blocks {
    const KIND: &'static str = "blocks";
}

impl SelectTokens for Blocks {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("select.size", self.size, 1)?;
        at_least("select.chunk", self.chunk, 1)?;
        if self.top.is_multiple_of(self.chunk) {
            return Ok(());
        }
        let requirement = "must be a multiple of select.chunk";
        Err(ScoreError::Setting { setting: "select.top", value: self.top as f32, requirement })
    }

    fn scope(&self) -> SelectScope {
        SelectScope::Shared
    }

    fn tokens(&self, protected: Protected, tokens: usize) -> Option<usize> {
        let between = tokens.saturating_sub(protected.sink + protected.recent);
        let blocks = (between / self.size.max(1)).min(self.top);
        Some(tokens - between + blocks * self.size + between % self.size.max(1))
    }

    fn spans(&self, share: HeadShare, tokens: usize) -> Option<ScoreSpans> {
        let protected = share.protected.within(share.kept, tokens);
        let between = tokens - protected.sink - protected.recent;
        let end = protected.sink + between / self.size * self.size;
        Some(ScoreSpans { first: protected.sink, size: self.size * self.chunk, end })
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let Self { size, top, chunk } = *self;
        let tokens = rows.first().map_or(0, |row| row.len());
        let protected = share.protected.within(share.kept, tokens);
        let between = tokens - protected.sink - protected.recent;
        let whole = between / size * size;
        // What does not fill a block is as recent as what follows it.
        let tail = protected.recent + between - whole;
        let share = HeadShare { protected: Protected { recent: tail, ..share.protected }, ..share };
        let mut spans = spans(whole, size * chunk);
        spans.iter_mut().for_each(|s| *s = s.start + protected.sink..s.end + protected.sink);
        let order = by_mean(rows, &spans);
        let count = if whole <= top * size { spans.len() } else { top / chunk };
        Ok(fill(share, tokens, &spans, &order, count))
    }
}
