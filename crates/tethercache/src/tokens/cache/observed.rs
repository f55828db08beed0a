//! What a session tells a scorer: arrays that were read back, and what it recorded on the way.

use std::borrow::Cow;

use tether_score::ScoreError;
use tether_score::tokens::{GridPlace, RecordedTokens, TokenObservation};

/// Queries of one layer of one sequence, as far as the recipe looks back.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Rotated, token after token, `[n, query_heads, head_dim]`.
    pub queries: Vec<f32>,
    /// Before the rotation.
    pub raw_queries: Vec<f32>,
}

impl Recorded {
    /// Adds the queries of new tokens and forgets all but the last `keep` tokens of `width` numbers each.
    pub(super) fn push(into: &mut Vec<f32>, new: &[f32], keep: usize, width: usize) {
        if keep == 0 {
            return;
        }
        into.extend_from_slice(new);
        let limit = keep.saturating_mul(width);
        // Seldom, so that forgetting costs little.
        if into.len() > limit.saturating_mul(2).max(limit.saturating_add(64 * width)) {
            into.drain(..into.len() - limit);
        }
    }

    /// The last `keep` tokens' queries of heads `heads`, `[heads, n, dim]`.
    pub(super) fn by_head(
        from: &[f32],
        keep: usize,
        query_heads: usize,
        heads: std::ops::Range<usize>,
        dim: usize,
    ) -> Vec<f32> {
        let width = query_heads * dim;
        let tokens = (from.len() / width.max(1)).min(keep);
        let rows = &from[from.len() - tokens * width..];
        let mut out = Vec::with_capacity(heads.len() * tokens * dim);
        for head in heads {
            for row in rows.chunks_exact(width) {
                out.extend_from_slice(&row[head * dim..][..dim]);
            }
        }
        out
    }
}

/// Recorded arrays, with attention that was summed as it happened where there is some.
pub(super) struct Observed {
    pub tokens: RecordedTokens,
    pub mass: Option<Vec<f32>>,
    /// Positions of each head.
    pub positions: Vec<Vec<i32>>,
}

impl TokenObservation for Observed {
    fn kv_heads(&self) -> usize {
        self.tokens.kv_heads()
    }

    fn query_heads(&self) -> usize {
        self.tokens.query_heads()
    }

    fn tokens(&self) -> usize {
        self.tokens.tokens()
    }

    fn head_dim_k(&self) -> usize {
        self.tokens.head_dim_k()
    }

    fn head_dim_v(&self) -> usize {
        self.tokens.head_dim_v()
    }

    fn positions(&self, kv_head: usize) -> &[i32] {
        self.positions.get(kv_head).map_or(&[], Vec::as_slice)
    }

    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.tokens.keys()
    }

    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.tokens.values()
    }

    fn queries(&self, count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.tokens.queries(count)
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.tokens.raw_queries()
    }

    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        self.tokens.frequencies()
    }

    fn output_projection(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.tokens.output_projection()
    }

    fn grid(&self) -> Result<&[Option<GridPlace>], ScoreError> {
        self.tokens.grid()
    }

    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        match &self.mass {
            Some(mass) => Ok(mass.clone()),
            None => self.tokens.accumulated_attention(),
        }
    }
}
