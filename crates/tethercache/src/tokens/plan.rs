//! What is to be done to one layer of one sequence.

use serde::{Deserialize, Serialize};
use tether_edit::tokens::TokenEdit;
use tether_score::tokens::{HeadScores, KeptIndices};

/// A decision about one layer of one sequence, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenPlan {
    /// The layer.
    pub layer: usize,
    /// Tokens that the longest head had; each head, unless they were planned one by one.
    pub tokens: usize,
    /// Tokens of all heads together.
    pub total: usize,
    /// Which of them stay, as places `0..tokens`. One set per key head; per query head where the recipe repeats keys for them.
    pub keep: KeptIndices,
    /// What does not stay is not read now, but remains in memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// What becomes of tokens that leave; applied before they leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<TokenEdit>,
    /// New positions of what stays, per head, where the recipe moves tokens; keys turn by new minus old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<Vec<Vec<i32>>>,
    /// The scores it was decided by, where there were any.
    #[serde(skip)]
    pub scores: Option<HeadScores>,
}

impl TokenPlan {
    /// A plan that keeps everything of heads that hold so many tokens.
    pub fn nothing(layer: usize, lengths: &[usize]) -> Self {
        let all = lengths.iter().map(|&len| (0..len as u32).collect()).collect();
        Self::keeping(layer, lengths, KeptIndices::ascending(all))
    }

    /// A plan that keeps `keep` of heads that hold so many tokens.
    pub fn keeping(layer: usize, lengths: &[usize], keep: KeptIndices) -> Self {
        Self {
            layer,
            tokens: lengths.iter().copied().max().unwrap_or(0),
            total: lengths.iter().sum(),
            keep,
            retain: false,
            edits: Vec::new(),
            positions: None,
            scores: None,
        }
    }

    /// True when nothing leaves, moves or changes.
    pub fn is_nothing(&self) -> bool {
        self.positions.is_none() && self.edits.is_empty() && self.keep.total() == self.total
    }
}
