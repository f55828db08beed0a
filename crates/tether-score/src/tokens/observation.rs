//! What a scorer may ask about one layer of one sequence.

use std::borrow::Cow;

use tether_core::{Pairing, Pool, ScoreLeaf};

use super::scorers::{block_means, page_bounds};
use crate::ScoreError;
use crate::tokens::attention::{column_mass, pooled, window_rows};

/// What a session must record for a scorer, beside keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The last so many queries, rotated; `usize::MAX` for all of the prompt's.
    pub last_queries: usize,
    /// Queries before the rotation: the last so many, `usize::MAX` for all of the prompt's.
    pub raw_queries: usize,
    /// Keys before the rotation.
    pub raw_keys: bool,
    /// Attention summed over all queries so far, per key.
    pub accumulated_attention: bool,
    /// Rotary frequencies.
    pub frequencies: bool,
    /// The weights of the layer's output projection.
    pub output_projection: bool,
    /// Where visual tokens stand: frame, row and column.
    pub grid: bool,
    /// Which heads are of which kind.
    pub head_profile: bool,
    /// Queries and keys of probe tokens that are run after the text and are no part of it: first so many of the text's own first tokens.
    pub probe_first: usize,
    /// Then so many of its last ones.
    pub probe_last: usize,
    /// Lowest and highest number of each channel of the rotated keys, over pages of so many tokens; 0 for none.
    pub page_bounds: usize,
    /// Means of the keys before the rotation, over blocks.
    pub block_means: Option<BlockGrid>,
}

impl Needs {
    /// What both need.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            last_queries: self.last_queries.max(other.last_queries),
            raw_queries: self.raw_queries.max(other.raw_queries),
            raw_keys: self.raw_keys | other.raw_keys,
            accumulated_attention: self.accumulated_attention | other.accumulated_attention,
            frequencies: self.frequencies | other.frequencies,
            output_projection: self.output_projection | other.output_projection,
            grid: self.grid | other.grid,
            head_profile: self.head_profile | other.head_profile,
            probe_first: self.probe_first.max(other.probe_first),
            probe_last: self.probe_last.max(other.probe_last),
            page_bounds: self.page_bounds.max(other.page_bounds),
            block_means: self.block_means.or(other.block_means),
        }
    }
}

/// Where the blocks of a text lie: the first begins after `first` tokens, and each has `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGrid {
    /// Tokens before the first block.
    pub first: usize,
    /// Tokens of a block.
    pub size: usize,
}

/// Where a visual token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridPlace {
    /// Frame or screenshot, counted from 0.
    pub frame: u32,
    /// Row of the frame's grid.
    pub row: u32,
    /// Column of the frame's grid.
    pub column: u32,
}

/// One layer of one sequence, as a scorer sees it.
///
/// Arrays are `f32`, row-major. What was not recorded is [`ScoreError::Missing`]. The reductions have default implementations on the
/// host; a session whose keys live on a device overrides them.
pub trait TokenObservation {
    /// Key heads.
    fn kv_heads(&self) -> usize;

    /// Query heads, a multiple of the key heads; query head `h` reads key head `h / (query_heads / kv_heads)`.
    fn query_heads(&self) -> usize;

    /// Tokens in the cache, in every head.
    fn tokens(&self) -> usize;

    /// Channels of a key.
    fn head_dim_k(&self) -> usize;

    /// Channels of a value.
    fn head_dim_v(&self) -> usize;

    /// Positions of a key head's tokens, ascending.
    fn positions(&self, kv_head: usize) -> &[i32];

    /// Rotated keys, `[kv_heads, tokens, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError>;

    /// Values, `[kv_heads, tokens, head_dim_v]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError>;

    /// Keys before the rotation, `[kv_heads, tokens, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn raw_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "keys before the rotation" })
    }

    /// The last `count` rotated queries, `[query_heads, count, head_dim_k]`; those of the last `count` tokens.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] when fewer were recorded.
    fn queries(&self, _count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "rotated queries" })
    }

    /// All recorded queries before the rotation, `[query_heads, n, head_dim_k]`; those of the last `n` tokens.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "queries before the rotation" })
    }

    /// Rotated queries of probe tokens, which stand after the text, `[query_heads, n, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn probe_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "queries of probe tokens" })
    }

    /// Rotated keys of the probe tokens, `[kv_heads, n, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn probe_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "keys of probe tokens" })
    }

    /// Rotary frequencies, radians per position, highest first.
    ///
    /// # Errors
    /// [`ScoreError::Missing`], [`ScoreError::Axes`] where positions have several axes.
    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        Err(ScoreError::Missing { what: "rotary frequencies" })
    }

    /// Which channels turn together by a frequency.
    fn pairing(&self) -> Pairing {
        Pairing::Half
    }

    /// What rotated channels of queries and of keys are longer by than raw ones (`YaRN`, arXiv:2309.00071).
    fn attention_factor(&self) -> f32 {
        1.0
    }

    /// The output projection, `[hidden, query_heads * head_dim_v]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn output_projection(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Err(ScoreError::Missing { what: "the output projection" })
    }

    /// Where each token stands in a picture; `None` for text.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn grid(&self) -> Result<&[Option<GridPlace>], ScoreError> {
        Err(ScoreError::Missing { what: "the grid of visual tokens" })
    }

    /// A leaf of a score that was worked out on a device, `[kv_heads, columns]`; `None` where it was not.
    fn leaf(&self, _leaf: &ScoreLeaf) -> Option<&[f32]> {
        None
    }

    /// Attention of the last `window` queries to the tokens before them, averaged over the queries, smoothed along the tokens, then
    /// averaged over the query heads of a key head: `[kv_heads, tokens - window]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`], [`ScoreError::Setting`] for a window longer than the text.
    fn window_mass(&self, window: usize, pool: Pool) -> Result<Vec<f32>, ScoreError> {
        let prefix = self.tokens().saturating_sub(window);
        let rows = self.window_mass_by_query(window)?;
        let rows = pooled(&rows, prefix, pool);
        Ok(crate::tokens::attention::group_mean(&rows, self.kv_heads(), self.query_heads(), prefix))
    }

    /// Attention of the last `window` queries to the tokens before them, averaged over the queries: `[query_heads, tokens - window]`.
    ///
    /// # Errors
    /// As [`TokenObservation::window_mass`].
    fn window_mass_by_query(&self, window: usize) -> Result<Vec<f32>, ScoreError> {
        let rows = window_rows(self, window)?;
        let prefix = self.tokens() - window;
        Ok(rows.mean_over_queries(prefix))
    }

    /// Lowest and highest number of each channel of a key head's rotated keys over pages of `page` tokens, the last of which may be shorter:
    /// `[pages, 2, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn page_bounds(&self, kv_head: usize, page: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let (tokens, dim) = (self.tokens(), self.head_dim_k());
        Ok(page_bounds(&self.keys()?[kv_head * tokens * dim..][..tokens * dim], dim, page).into())
    }

    /// Means of a key head's keys before the rotation over the first `blocks` blocks: `[blocks, head_dim_k]`.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn block_means(&self, kv_head: usize, grid: BlockGrid, blocks: usize) -> Result<Vec<f64>, ScoreError> {
        let (tokens, dim) = (self.tokens(), self.head_dim_k());
        let keys = self.raw_keys()?;
        let of_head = &keys[kv_head * tokens * dim..][..tokens * dim];
        Ok(block_means(&of_head[(grid.first * dim).min(of_head.len())..], dim, grid.size, blocks))
    }

    /// Attention summed over all queries, `[query_heads, tokens]`: every token's query with the tokens up to it.
    ///
    /// # Errors
    /// [`ScoreError::Missing`].
    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        column_mass(self)
    }
}
