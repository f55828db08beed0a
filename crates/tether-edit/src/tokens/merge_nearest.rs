//! Evicted tokens join the nearest kept one.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::merge::grouped;
use super::{EditTokens, HeadEdit, Merge, TokenEdit};
use crate::EditError;

/// Keys and values of evicted tokens go into the nearest kept token between the first ones and the last one: the mean of that token and of
/// all that joined it (Elastic Cache, arXiv:2407.18121). Equally near: the earlier one. Nothing merges where no token between stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeNearest {
    /// As the published code: the token that is merged is the one `sink` places before the evicted one. For comparison only.
    pub official: bool,
}

impl Settings for MergeNearest {
    const KIND: &'static str = "merge-nearest";
}

impl EditTokens for MergeNearest {
    fn reads_rows(&self) -> bool {
        false
    }

    fn plan(&self, head: HeadEdit<'_>) -> Result<Vec<TokenEdit>, EditError> {
        let merges = Self::plan(self, head.head, head.tokens, head.kept, head.sink, head.recent);
        Ok(merges.into_iter().map(TokenEdit::Merge).collect())
    }
}

impl MergeNearest {
    /// The merges of head `head`, which keeps `kept` (ascending) of `tokens` tokens, of them the first `sink` and the last `recent` apart.
    pub fn plan(&self, head: usize, tokens: usize, kept: &[u32], sink: usize, recent: usize) -> Vec<Merge> {
        let middle = sink as u32..tokens.saturating_sub(recent) as u32;
        let anchors: Vec<u32> = kept.iter().copied().filter(|t| middle.contains(t)).collect();
        if anchors.is_empty() {
            return Vec::new();
        }
        let mut stays = vec![false; tokens];
        kept.iter().filter(|&&t| (t as usize) < tokens).for_each(|&t| stays[t as usize] = true);
        let shift = if self.official { sink as u32 } else { 0 };
        let evicted = middle.filter(|&t| !stays[t as usize]).map(|t| t - shift);
        let nearest = |token: u32| {
            let after = anchors.partition_point(|&a| a < token);
            let before = after.checked_sub(1).map(|i| anchors[i]);
            match (before, anchors.get(after)) {
                (Some(before), Some(&next)) if next - token < token - before => next,
                (Some(before), _) => before,
                (None, Some(&next)) => next,
                (None, None) => anchors[0],
            }
        };
        grouped(head, true, evicted.map(|token| (nearest(token), token, 1.0)))
    }
}
