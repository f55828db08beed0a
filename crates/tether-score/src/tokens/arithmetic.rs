//! Who works scores out: the host, or whoever keeps them elsewhere.

use serde::{Deserialize, Serialize};
use tether_core::{ScoreLeaf, ScoreOp};

use super::leaf::host_leaf;
use super::{HeadScores, ScoreRequest, TokenObservation, TokenScorer};
use crate::ScoreError;

/// A score that tokens have by where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PositionScore {
    /// One over the number of queries that saw the token: those from its position on.
    PerQuery,
    /// Chance, 0 to 1: the same for a position whatever else is there.
    Noise {
        /// Seed.
        seed: u64,
    },
}

impl PositionScore {
    /// The scores of tokens at ascending positions.
    pub fn of(self, positions: &[i32]) -> Vec<f32> {
        match self {
            Self::PerQuery => {
                let end = positions.last().map_or(0, |&p| i64::from(p) + 1);
                positions.iter().map(|&p| 1.0 / (end - i64::from(p)).max(1) as f32).collect()
            }
            Self::Noise { seed } => {
                // 24 bits: every such number is a float of its own.
                let draw = |&position: &i32| (mixed(seed ^ mixed(position as u64)) >> 40) as f32;
                positions.iter().map(|position| draw(position) / (1 << 24) as f32).collect()
            }
        }
    }
}

/// `SplitMix64`.
pub(super) fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Whoever works the parts of a score out, `[kv_heads, columns]` each.
pub trait ScoreArithmetic {
    /// Scores, wherever they are.
    type Scores;
    /// What goes wrong.
    type Error: From<ScoreError>;

    /// Tokens of each head.
    fn tokens(&self) -> usize;

    /// A leaf.
    ///
    /// # Errors
    /// What the leaf is made of may be missing.
    fn leaf(&mut self, leaf: &ScoreLeaf) -> Result<Self::Scores, Self::Error>;

    /// What the positions of tokens tell.
    ///
    /// # Errors
    /// Memory that is missing.
    fn of_positions(&mut self, score: PositionScore) -> Result<Self::Scores, Self::Error>;

    /// The same score for so many tokens.
    ///
    /// # Errors
    /// Memory that is missing.
    fn constant(&mut self, score: f32, tokens: usize) -> Result<Self::Scores, Self::Error>;

    /// The scores of a scorer that has no expression.
    ///
    /// # Errors
    /// Those of the scorer, and where scores are not worked out on the host.
    fn asked(&mut self, scorer: &TokenScorer, request: ScoreRequest) -> Result<Self::Scores, Self::Error>;

    /// Arithmetic.
    ///
    /// # Errors
    /// Those of [`ScoreOp::shape`].
    fn op(&mut self, op: &ScoreOp, of: &[&Self::Scores]) -> Result<Self::Scores, Self::Error>;
}

/// On the host, of what an observation has.
pub(super) struct HostArithmetic<'a>(pub(super) &'a dyn TokenObservation);

impl ScoreArithmetic for HostArithmetic<'_> {
    type Scores = HeadScores;
    type Error = ScoreError;

    fn tokens(&self) -> usize {
        self.0.tokens()
    }

    fn leaf(&mut self, leaf: &ScoreLeaf) -> Result<HeadScores, ScoreError> {
        let numbers = match self.0.leaf(leaf) {
            Some(numbers) => numbers.to_vec(),
            None => host_leaf(leaf, self.0)?,
        };
        HeadScores::new(self.0.kv_heads(), leaf.columns(self.0.tokens()), numbers)
    }

    fn of_positions(&mut self, score: PositionScore) -> Result<HeadScores, ScoreError> {
        let heads = self.0.kv_heads();
        let scores = (0..heads).flat_map(|head| score.of(self.0.positions(head))).collect();
        HeadScores::new(heads, self.0.tokens(), scores)
    }

    fn constant(&mut self, score: f32, tokens: usize) -> Result<HeadScores, ScoreError> {
        HeadScores::shared(self.0.kv_heads(), &vec![score; tokens])
    }

    fn asked(&mut self, scorer: &TokenScorer, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        scorer.score(self.0, request)
    }

    fn op(&mut self, op: &ScoreOp, of: &[&HeadScores]) -> Result<HeadScores, ScoreError> {
        let shapes: Vec<[usize; 2]> = of.iter().map(|scores| [scores.heads(), scores.tokens()]).collect();
        let [heads, columns] = op.shape(&shapes.iter().map(<[usize; 2]>::as_slice).collect::<Vec<_>>())?;
        let numbers: Vec<&[f32]> = of.iter().map(|scores| scores.values()).collect();
        HeadScores::new(heads, columns, op.apply(&numbers, shapes[0]))
    }
}
