//! Blocks by their mean keys.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use super::question_guided::mean_row;
use crate::ScoreError;
use crate::tokens::attention::group;
use crate::tokens::scorer::at_least;
use crate::tokens::{
    BlockGrid, EndScore, HeadScores, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens, TokenObservation,
};

/// Inner product of a block's mean key and the question's mean query, both before the rotation and over all heads together
/// (arXiv:2503.00540). All tokens of a block have its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlockLikeness {
    /// Tokens of a block, such as a frame's.
    pub block: usize,
    /// First tokens, which stay and form no block.
    pub init: usize,
    /// Last tokens: the question, which stays and forms no block.
    pub question: usize,
}

impl Settings for BlockLikeness {
    const KIND: &'static str = "block-likeness";
}

impl Default for BlockLikeness {
    fn default() -> Self {
        Self { block: 16, init: 16, question: 32 }
    }
}

/// Means over the first `blocks` blocks of `size` rows of `keys` `[tokens, dim]`: `[blocks, dim]`.
pub fn block_means(keys: &[f32], dim: usize, size: usize, blocks: usize) -> Vec<f64> {
    keys.chunks_exact((size * dim).max(1)).take(blocks).flat_map(|rows| mean_row(rows, dim)).collect()
}

impl BlockLikeness {
    fn grid(&self) -> BlockGrid {
        BlockGrid { first: self.init, size: self.block }
    }

    /// The likeness of each whole block between the first tokens and the question.
    ///
    /// # Errors
    /// [`ScoreError::Missing`], [`ScoreError::Heads`].
    pub fn of_blocks(&self, seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
        let blocks = seen.tokens().saturating_sub(self.init + self.question) / self.block;
        let mut likeness = vec![0f64; blocks];
        for of_head in block_logits(seen, self.grid(), (self.question, blocks))? {
            likeness.iter_mut().zip(of_head).for_each(|(sum, logit)| *sum += logit);
        }
        Ok(likeness.into_iter().map(|sum| sum as f32).collect())
    }
}

/// The likeness of the first `blocks` blocks to the last `question` recorded queries, of each key head.
pub(in crate::tokens) fn block_logits(
    seen: &dyn TokenObservation,
    grid: BlockGrid,
    (question, blocks): (usize, usize),
) -> Result<Vec<Vec<f64>>, ScoreError> {
    let (dim, group) = (seen.head_dim_k(), group(seen)?);
    let queries = seen.raw_queries()?;
    let recorded = queries.len() / (seen.query_heads() * dim);
    let question = question.min(recorded);
    // A key head's mean key meets the sum of its query heads' mean queries.
    let of_key_head = |head: usize| -> Vec<f64> {
        let mut sum = vec![0f64; dim];
        for head in head * group..(head + 1) * group {
            let rows = &queries[head * recorded * dim..][(recorded - question) * dim..recorded * dim];
            sum.iter_mut().zip(mean_row(rows, dim)).for_each(|(s, m)| *s += m);
        }
        sum
    };
    let logits = |head: usize| -> Result<Vec<f64>, ScoreError> {
        let (query, means) = (of_key_head(head), seen.block_means(head, grid, blocks)?);
        let dot = |mean: &[f64]| mean.iter().zip(&query).map(|(k, q)| k * q).sum();
        Ok(means.chunks_exact(dim).map(dot).collect())
    };
    (0..seen.kv_heads()).map(logits).collect()
}

impl ScoreTokens for BlockLikeness {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.block", self.block, 1)?;
        at_least("score.question", self.question, 1)
    }

    fn needs(&self) -> Needs {
        Needs { raw_queries: self.question, block_means: Some(self.grid()), ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: self.init, recent: self.question }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let Self { block: size, init: first, question: queries } = *self;
        let leaf = ScoreLeaf::BlockMeanLogit { first, size, queries };
        let (first, of_blocks) = (first.min(tokens), leaf.columns(tokens) * size);
        let likeness = ScoreExpr::HeadMean(Box::new(ScoreExpr::leaf(leaf)));
        let repeated = ScoreExpr::Repeat { of: Box::new(likeness), times: size, tokens: of_blocks };
        let ends = if of_blocks == 0 { EndScore::Is(1.0) } else { EndScore::Above };
        Some(repeated.within((first, tokens - first - of_blocks), ends))
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        // Where a device has compared the blocks, their mean keys are not asked for.
        let known = |score: &ScoreExpr| score.leaves().iter().all(|leaf| seen.leaf(leaf).is_some());
        if let Some(score) = self.expression(request, tokens).filter(known) {
            return score.evaluate(seen);
        }
        let likeness = self.of_blocks(seen)?;
        let top = likeness.iter().copied().fold(0.0, f32::max) + 1.0;
        let init = self.init.min(tokens);
        let mut row = vec![top; init];
        likeness.iter().for_each(|&score| row.extend(std::iter::repeat_n(score, self.block)));
        row.resize(tokens, top);
        HeadScores::shared(seen.kv_heads(), &row)
    }
}
