//! What a session tells a scorer: what it recorded on the way, and what it reads back when asked.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use tether_core::{Pairing, Side, TokenEngine};
use tether_rope::{RopeError, TokenRope};
use tether_score::ScoreError;
use tether_score::tokens::{BlockGrid, GridPlace, TokenObservation, block_means, page_bounds};

use super::blocks::HeadList;
use super::probes::Probes;
use super::summaries::{Summaries, unrotated};
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

    /// The last `keep` tokens of `width` numbers each, or as many as there are.
    pub(super) fn last(from: &[f32], keep: usize, width: usize) -> &[f32] {
        let tokens = (from.len() / width.max(1)).min(keep);
        &from[from.len() - tokens * width..]
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
        let rows = Self::last(from, keep, width);
        let tokens = rows.len() / width.max(1);
        let mut out = Vec::with_capacity(heads.len() * tokens * dim);
        for head in heads {
            for row in rows.chunks_exact(width) {
                out.extend_from_slice(&row[head * dim..][..dim]);
            }
        }
        out
    }
}

/// Queries, token after token, of which the last are those of the last token that is observed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queries<'a> {
    pub rotated: &'a [f32],
    pub raw: &'a [f32],
    pub probes: Option<&'a Probes>,
}

/// Heads of one layer of one sequence, all of one length. What a scorer does not ask for is not read back.
pub(super) struct Observed<'a, E: TokenEngine> {
    cache: &'a TokenCache<E>,
    lists: &'a [HeadList],
    layer: usize,
    heads: Range<usize>,
    queries: Queries<'a>,
    summaries: Option<&'a Summaries>,
    upto: usize,
    keys: OnceCell<Vec<f32>>,
    values: OnceCell<Vec<f32>>,
}

impl<'a, E: TokenEngine> Observed<'a, E> {
    /// Heads `heads` of a layer, whose lists are `lists`; nothing was recorded.
    pub(super) fn new(
        cache: &'a TokenCache<E>,
        lists: &'a [HeadList],
        layer: usize,
        heads: Range<usize>,
    ) -> Self {
        let queries = Queries::default();
        let (keys, values) = (OnceCell::new(), OnceCell::new());
        Self { cache, lists, layer, heads, queries, summaries: None, upto: usize::MAX, keys, values }
    }

    /// Heads `heads` of what a sequence holds of a layer.
    pub(super) fn held(
        cache: &'a TokenCache<E>,
        held: &'a SequenceLayer,
        layer: usize,
        heads: Range<usize>,
    ) -> Self {
        let queries = Queries {
            rotated: &held.recorded.queries,
            raw: &held.recorded.raw_queries,
            probes: held.probes.as_ref().filter(|p| p.seen == held.seen),
        };
        Self::new(cache, &held.heads, layer, heads).with(queries, &held.summaries)
    }

    /// With what was recorded.
    pub(super) fn with(self, queries: Queries<'a>, summaries: &'a Summaries) -> Self {
        Self { queries, summaries: Some(summaries), ..self }
    }

    /// The first `upto` tokens only.
    pub(super) fn upto(self, upto: usize) -> Self {
        Self { upto, ..self }
    }

    fn lists(&self) -> &'a [HeadList] {
        &self.lists[self.heads.clone()]
    }

    fn query_range(&self) -> Range<usize> {
        let group = self.cache.geometry.group();
        self.heads.start * group..self.heads.end * group
    }

    fn rows<'s>(&self, side: Side, read: &'s OnceCell<Vec<f32>>) -> Result<Cow<'s, [f32]>, ScoreError> {
        if read.get().is_none() {
            let size = self.cache.geometry.block_size;
            let of_head = |h: &'a HeadList| (0..self.tokens()).map(|t| h.row(t, size));
            let rows = self.lists().iter().flat_map(of_head).collect();
            let rows = self.cache.rows(self.layer, side, rows)?;
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
        self.lists().first().map_or(0, HeadList::len).min(self.upto)
    }

    fn head_dim_k(&self) -> usize {
        self.cache.geometry.head_dim_k
    }

    fn head_dim_v(&self) -> usize {
        self.cache.geometry.head_dim_v
    }

    fn positions(&self, kv_head: usize) -> &[i32] {
        self.lists().get(kv_head).map_or(&[], |h| &h.positions[..h.len().min(self.upto)])
    }

    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.rows(Side::Keys, &self.keys)
    }

    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.rows(Side::Values, &self.values)
    }

    fn raw_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let of_rope = |e| match e {
            RopeError::Core(e) => ScoreError::Core(e),
            _ => ScoreError::Missing { what: "a rotation that fits the keys" },
        };
        let positions: Vec<i32> = (0..self.kv_heads()).flat_map(|h| self.positions(h)).copied().collect();
        let keys = unrotated(self.cache.rope()?, self.keys()?.into_owned(), &positions, 1, self.head_dim_k());
        Ok(keys.map_err(of_rope)?.into())
    }

    fn queries(&self, count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.by_head(self.queries.rotated, count);
        let got = queries.len() / (self.query_heads() * self.head_dim_k());
        if got == 0 || got < count {
            return Err(ScoreError::Missing { what: "rotated queries" });
        }
        Ok(queries.into())
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.by_head(self.queries.raw, self.cache.planner.needs().raw_queries);
        if queries.is_empty() {
            return Err(ScoreError::Missing { what: "queries before the rotation" });
        }
        Ok(queries.into())
    }

    fn probe_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let probes = self.queries.probes.ok_or(ScoreError::Missing { what: "queries of probe tokens" })?;
        let g = &self.cache.geometry;
        Ok(probes.queries_of(g.query_heads, self.query_range(), g.head_dim_k).into())
    }

    fn probe_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let probes = self.queries.probes.ok_or(ScoreError::Missing { what: "keys of probe tokens" })?;
        let of_head = probes.keys.len() / self.cache.geometry.kv_heads;
        Ok(probes.keys[self.heads.start * of_head..self.heads.end * of_head].into())
    }

    fn page_bounds(&self, kv_head: usize, page: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let (head, tokens, dim) = (self.heads.start + kv_head, self.tokens(), self.head_dim_k());
        match self.summaries.and_then(|s| s.bounds(self.cache.wanted(), head, page)) {
            Some(bounds) => Ok(bounds.into()),
            None => {
                Ok(page_bounds(&self.keys()?[kv_head * tokens * dim..][..tokens * dim], dim, page).into())
            }
        }
    }

    fn block_means(&self, kv_head: usize, grid: BlockGrid, blocks: usize) -> Result<Vec<f64>, ScoreError> {
        let (head, tokens, dim) = (self.heads.start + kv_head, self.tokens(), self.head_dim_k());
        let kept = |s: &Summaries| s.means(self.cache.wanted(), head, (grid, blocks), dim);
        if let Some(means) = self.summaries.and_then(kept) {
            return Ok(means);
        }
        let keys = self.raw_keys()?;
        let of_head = &keys[kv_head * tokens * dim..][..tokens * dim];
        Ok(block_means(&of_head[(grid.first * dim).min(of_head.len())..], dim, grid.size, blocks))
    }

    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        Ok(self.cache.rope()?.frequencies())
    }

    fn pairing(&self) -> Pairing {
        self.cache.facts.rope.as_ref().map_or(Pairing::Half, TokenRope::pairing)
    }

    fn attention_factor(&self) -> f32 {
        self.cache.facts.rope.as_ref().map_or(1.0, TokenRope::attention_factor)
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

    fn grid(&self) -> Result<&[Option<GridPlace>], ScoreError> {
        let what = "the grid of visual tokens, which all heads hold";
        let (first, others) = self.lists().split_first().ok_or(ScoreError::Missing { what })?;
        if first.grid.is_empty() || others.iter().any(|h| h.grid != first.grid) {
            return Err(ScoreError::Missing { what });
        }
        Ok(&first.grid[..self.tokens()])
    }

    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        if !self.cache.planner.needs().accumulated_attention {
            return Err(ScoreError::Missing { what: "attention of all queries so far" });
        }
        Ok(self.lists().iter().flat_map(|h| &h.mass).flatten().copied().collect())
    }
}
