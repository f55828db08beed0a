//! Whole pages of each head.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::best;
use super::spans::{by_mean, fill, spans};
use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadShare, SelectTokens};

/// Whole pages of consecutive tokens, of each head those with the highest mean scores, the protected tokens' pages first (Quest,
/// arXiv:2406.10774). A share that is smaller than a page goes to the highest scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Tokens of a page.
    pub size: usize,
}

impl Settings for Pages {
    const KIND: &'static str = "pages";
}

impl SelectTokens for Pages {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("select.size", self.size, 1)
    }

    fn whole_pages(&self) -> Option<usize> {
        Some(self.size)
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let scores = rows.first().copied().unwrap_or_default();
        if self.size > share.kept {
            return Ok(best(scores, share.kept, share.protected));
        }
        let tokens = scores.len();
        let share = HeadShare { kept: share.kept.min(tokens), ..share };
        let protected = share.protected.within(share.kept, tokens);
        let spans = spans(tokens, self.size);
        let mut order = by_mean(&[scores], &spans);
        order.sort_by_key(|&page| !spans[page].clone().any(|t| protected.holds(t, tokens)));
        Ok(fill(share, tokens, &spans, &order, spans.len()))
    }
}
