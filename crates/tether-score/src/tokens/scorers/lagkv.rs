//! Blocks, each measured against the next one.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{EndScore, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// Keys and values of a block, in units of the next block's range of each channel: what spreads over the channels is worth keeping. Ranks
/// inside a block, so that every block keeps its share (arXiv:2504.04704).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagKv {
    /// Tokens of a block.
    pub lag: usize,
    /// First tokens, which stay.
    pub sink: usize,
}

impl Settings for LagKv {
    const KIND: &'static str = "lagkv";
}

impl Default for LagKv {
    fn default() -> Self {
        Self { lag: 128, sink: 4 }
    }
}

impl LagKv {
    /// Blocks that have a next one, in a text of `tokens`.
    fn scored_blocks(&self, tokens: usize) -> usize {
        (tokens.saturating_sub(self.sink) / self.lag).saturating_sub(1)
    }
}

impl ScoreTokens for LagKv {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.lag", self.lag, 2)
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: self.sink, recent: self.lag }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let (first, size) = (self.sink.min(tokens), self.lag);
        let sides = [ScoreLeaf::KeySpread { first, size }, ScoreLeaf::ValueSpread { first, size }];
        let both = ScoreExpr::Add(sides.into_iter().map(ScoreExpr::leaf).collect());
        let ranks = ScoreExpr::Rank { of: Box::new(both), size };
        let last = tokens - first - self.scored_blocks(tokens) * size;
        Some(ranks.within((first, last), EndScore::Is(1.0)))
    }
}
