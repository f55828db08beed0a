//! What the published code of Elastic Cache keeps.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::top_k::Ranked;
use crate::ScoreError;
use crate::tokens::{HeadShare, SelectScope, SelectTokens};

/// What the published code of Elastic Cache keeps: between the first tokens and the last ones, the places at which the order of scores
/// happens to hold a large number. For comparison only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticOfficial {}

impl Settings for ElasticOfficial {
    const KIND: &'static str = "elastic-official";
}

impl SelectTokens for ElasticOfficial {
    fn scope(&self) -> SelectScope {
        SelectScope::Shared
    }

    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError> {
        let scores = rows.first().copied().unwrap_or_default();
        let tokens = scores.len();
        let protected = share.protected.within(share.kept, tokens);
        let start = protected.sink;
        // The published code protects one last token.
        let last = tokens.saturating_sub(protected.recent.max(1)).max(start);
        let forgotten = tokens - share.kept.min(tokens);
        let mut order: Vec<usize> = (start..last).collect();
        order.sort_by(|&a, &b| Ranked(scores[a]).cmp(&Ranked(scores[b])).then(a.cmp(&b)));
        // The order's numbers are taken for ranks.
        let middle = order.iter().enumerate().filter(|(_, at)| **at - start > forgotten);
        let middle = middle.map(|(place, _)| (start + place) as u32);
        Ok((0..start as u32).chain(middle).chain(last as u32..tokens as u32).collect())
    }
}
