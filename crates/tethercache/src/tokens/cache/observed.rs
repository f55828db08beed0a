//! What a session tells a scorer: what it recorded on the way, and what it reads back when asked.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use tether_core::{Side, TokenEngine};
use tether_score::ScoreError;
use tether_score::tokens::TokenObservation;

use super::blocks::HeadList;
use super::{SequenceLayer, TokenCache};

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
        heads: Range<usize>,
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

/// Heads of one layer of one sequence, all of one length. What a scorer does not ask for is not read back.
pub(super) struct Observed<'a, E: TokenEngine> {
    cache: &'a TokenCache<E>,
    held: &'a SequenceLayer,
    layer: usize,
    heads: Range<usize>,
    keys: OnceCell<Vec<f32>>,
    values: OnceCell<Vec<f32>>,
}

impl<'a, E: TokenEngine> Observed<'a, E> {
    pub(super) fn new(
        cache: &'a TokenCache<E>,
        held: &'a SequenceLayer,
        layer: usize,
        heads: Range<usize>,
    ) -> Self {
        Self { cache, held, layer, heads, keys: OnceCell::new(), values: OnceCell::new() }
    }

    fn lists(&self) -> &'a [HeadList] {
        &self.held.heads[self.heads.clone()]
    }

    fn query_range(&self) -> Range<usize> {
        let group = self.cache.geometry.group();
        self.heads.start * group..self.heads.end * group
    }

    fn rows<'s>(&self, side: Side, read: &'s OnceCell<Vec<f32>>) -> Result<Cow<'s, [f32]>, ScoreError> {
        if read.get().is_none() {
            let rows = self.cache.rows_of(self.layer, side, self.lists())?;
            read.get_or_init(|| rows);
        }
        Ok(read.get().map_or(&[][..], Vec::as_slice).into())
    }

    /// The last `keep` recorded queries, as far as they are those of tokens that are held.
    fn by_head(&self, from: &[f32], keep: usize) -> Vec<f32> {
        let g = &self.cache.geometry;
        Recorded::by_head(from, keep.min(self.tokens()), g.query_heads, self.query_range(), g.head_dim_k)
    }
}

impl<E: TokenEngine> TokenObservation for Observed<'_, E> {
    fn kv_heads(&self) -> usize {
        self.heads.len()
    }

    fn query_heads(&self) -> usize {
        self.query_range().len()
    }

    fn tokens(&self) -> usize {
        self.lists().first().map_or(0, HeadList::len)
    }

    fn head_dim_k(&self) -> usize {
        self.cache.geometry.head_dim_k
    }

    fn head_dim_v(&self) -> usize {
        self.cache.geometry.head_dim_v
    }

    fn positions(&self, kv_head: usize) -> &[i32] {
        self.lists().get(kv_head).map_or(&[], |h| &h.positions)
    }

    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.rows(Side::Keys, &self.keys)
    }

    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.rows(Side::Values, &self.values)
    }

    fn queries(&self, count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.by_head(&self.held.recorded.queries, count);
        let got = queries.len() / (self.query_heads() * self.head_dim_k());
        if got == 0 || got < count {
            return Err(ScoreError::Missing { what: "rotated queries" });
        }
        Ok(queries.into())
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.by_head(&self.held.recorded.raw_queries, self.cache.planner.needs().raw_queries);
        if queries.is_empty() {
            return Err(ScoreError::Missing { what: "queries before the rotation" });
        }
        Ok(queries.into())
    }

    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        match self.cache.facts.frequencies.as_slice() {
            [] => Err(ScoreError::Missing { what: "rotary frequencies" }),
            frequencies => Ok(frequencies),
        }
    }

    fn output_projection(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let weights = self.cache.facts.output_projections.get(self.layer);
        let weights = weights.ok_or(ScoreError::Missing { what: "the output projection" })?;
        let g = &self.cache.geometry;
        let columns = self.query_range();
        let columns = columns.start * g.head_dim_v..columns.end * g.head_dim_v;
        let rows = weights.chunks_exact(g.query_heads * g.head_dim_v);
        Ok(rows.flat_map(|row| &row[columns.clone()]).copied().collect())
    }

    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        if !self.cache.planner.needs().accumulated_attention {
            return Err(ScoreError::Missing { what: "attention of all queries so far" });
        }
        Ok(self.lists().iter().flat_map(|h| &h.mass).flatten().copied().collect())
    }
}
