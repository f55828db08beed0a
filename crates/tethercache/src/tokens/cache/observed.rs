//! What a session tells a scorer: what it recorded on the way, and what it reads back when asked.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use tether_core::{Pairing, Readback, ScoreLeaf, Side, TokenEngine};
use tether_rope::{RopeError, TokenRope};
use tether_score::ScoreError;
use tether_score::tokens::{BlockGrid, GridPlace, TokenObservation, block_means, page_bounds};

use super::head_pages::HeadPages;
use super::probes::{Probes, heads_of};
use super::recorded::{Recorded, by_head};
use super::scoring::KnownLeaf;
use super::summaries::unrotated;
use super::{SequenceLayer, TokenCache};

/// Queries, token after token, of which the last are those of the last token that is observed.
pub(super) enum Queries<'a, E: TokenEngine> {
    /// What was recorded, which is read back when asked for.
    Recorded(&'a Recorded<E::Tensor>, Option<&'a Probes<E::Tensor>>),
    /// On the host: rotated, and before the rotation.
    Host(&'a [f32], &'a [f32]),
}

/// Heads of one layer of one sequence, all of one length. What a scorer does not ask for is not read back.
pub(super) struct Observed<'a, E: TokenEngine> {
    cache: &'a TokenCache<E>,
    lists: &'a [HeadPages],
    layer: usize,
    heads: Range<usize>,
    queries: Queries<'a, E>,
    upto: usize,
    keys: OnceCell<Vec<f32>>,
    values: OnceCell<Vec<f32>>,
    /// Queries that were read back, rotated and raw.
    read: [OnceCell<Vec<f32>>; 2],
    /// Leaves of the score that were worked out on the device.
    known: &'a [KnownLeaf],
}

impl<'a, E: TokenEngine> Observed<'a, E> {
    /// Heads `heads` of a layer, whose lists are `lists`, as `queries` see them.
    pub(super) fn new(
        cache: &'a TokenCache<E>,
        (lists, layer): (&'a [HeadPages], usize),
        heads: Range<usize>,
        queries: Queries<'a, E>,
    ) -> Self {
        let upto = usize::MAX;
        let (keys, values, read) = Default::default();
        Self { cache, lists, layer, heads, queries, upto, keys, values, read, known: &[] }
    }

    /// With leaves that were worked out.
    pub(super) fn knowing(self, known: &'a [KnownLeaf]) -> Self {
        Self { known, ..self }
    }

    /// Heads `heads` of what a sequence holds of a layer.
    pub(super) fn held(
        cache: &'a TokenCache<E>,
        held: &'a SequenceLayer<E::Tensor>,
        layer: usize,
        heads: Range<usize>,
    ) -> Self {
        let probes = held.probes.as_ref().filter(|p| p.seen == held.seen);
        let queries = Queries::Recorded(&held.recorded, probes);
        Self::new(cache, (&held.heads, layer), heads, queries)
    }

    /// The first `upto` tokens only.
    pub(super) fn upto(self, upto: usize) -> Self {
        Self { upto, ..self }
    }

    fn lists(&self) -> &'a [HeadPages] {
        &self.lists[self.heads.clone()]
    }

    /// The rows of the tokens, head after head.
    fn row_numbers(&self) -> Vec<u32> {
        let size = self.cache.geometry.block_size;
        self.lists().iter().flat_map(|h| (0..self.tokens()).map(|t| h.row(t, size))).collect()
    }

    fn query_range(&self) -> Range<usize> {
        let group = self.cache.geometry.group();
        self.heads.start * group..self.heads.end * group
    }

    fn rows<'s>(&self, side: Side, read: &'s OnceCell<Vec<f32>>) -> Result<Cow<'s, [f32]>, ScoreError> {
        if read.get().is_none() {
            let rows = self.cache.rows(self.layer, side, self.row_numbers())?;
            read.get_or_init(|| rows);
        }
        Ok(read.get().map_or(&[][..], Vec::as_slice).into())
    }

    /// The last `keep` recorded queries, as far as they are those of tokens that are held.
    fn last_queries(&self, raw: bool, keep: usize) -> Result<Vec<f32>, ScoreError> {
        let g = &self.cache.geometry;
        let all = match &self.queries {
            Queries::Host(rotated, of_raw) => *(if raw { of_raw } else { rotated }),
            Queries::Recorded(recorded, _) => {
                let cell = &self.read[usize::from(raw)];
                if cell.get().is_none() {
                    let tail = if raw { &recorded.raw_queries } else { &recorded.queries };
                    let read = tail.on_host(&self.cache.engine)?;
                    cell.get_or_init(|| read);
                }
                cell.get().map_or(&[][..], Vec::as_slice)
            }
        };
        let mut last = by_head(all, keep.min(self.tokens()), g.query_heads, self.query_range(), g.head_dim_k);
        // Scorers multiply by `1 / sqrt(head_dim)`.
        let factor = g.scale() * (g.head_dim_k as f32).sqrt();
        if g.attention.scale.is_some() {
            last.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(last)
    }

    fn probes(&self) -> Option<&'a Probes<E::Tensor>> {
        match self.queries {
            Queries::Recorded(_, probes) => probes,
            Queries::Host(..) => None,
        }
    }

    /// Heads of `[all, n, dim]`, where `each` is `n`.
    fn read_heads(
        &self,
        of: &E::Tensor,
        each: usize,
        heads: Range<usize>,
    ) -> Result<Cow<'_, [f32]>, ScoreError> {
        let engine = &self.cache.engine;
        let of_heads = heads_of(engine, of, each, heads)?;
        Ok(engine.read(&[&of_heads])?.wait()?[0].to_f32_vec().into())
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
        self.lists().first().map_or(0, HeadPages::len).min(self.upto)
    }

    fn head_dim_k(&self) -> usize {
        self.cache.geometry.head_dim_k
    }

    fn head_dim_v(&self) -> usize {
        self.cache.geometry.head_dim_v
    }

    fn positions(&self, kv_head: usize) -> &[i32] {
        self.lists().get(kv_head).map_or(&[], |h| &h.positions.as_slice()[..h.len().min(self.upto)])
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
        let keys = unrotated(self.cache.rope()?, self.keys()?.into_owned(), &positions, self.head_dim_k());
        Ok(keys.map_err(of_rope)?.into())
    }

    fn queries(&self, count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.last_queries(false, count)?;
        let got = queries.len() / (self.query_heads() * self.head_dim_k());
        if got == 0 || got < count {
            return Err(ScoreError::Missing { what: "rotated queries" });
        }
        Ok(queries.into())
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.last_queries(true, self.cache.planner.needs().raw_queries)?;
        if queries.is_empty() {
            return Err(ScoreError::Missing { what: "queries before the rotation" });
        }
        Ok(queries.into())
    }

    fn probe_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let probes = self.probes().ok_or(ScoreError::Missing { what: "queries of probe tokens" })?;
        self.read_heads(&probes.queries, probes.count, self.query_range())
    }

    fn probe_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let probes = self.probes().ok_or(ScoreError::Missing { what: "keys of probe tokens" })?;
        self.read_heads(&probes.keys, probes.count, self.heads.clone())
    }

    fn page_bounds(&self, kv_head: usize, page: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let (tokens, dim) = (self.tokens(), self.head_dim_k());
        match self.cache.bounds_of((self.layer, &self.lists()[kv_head]), tokens, page)? {
            Some(bounds) => Ok(bounds.into()),
            None => {
                Ok(page_bounds(&self.keys()?[kv_head * tokens * dim..][..tokens * dim], dim, page).into())
            }
        }
    }

    fn block_means(&self, kv_head: usize, grid: BlockGrid, blocks: usize) -> Result<Vec<f64>, ScoreError> {
        let (tokens, dim) = (self.tokens(), self.head_dim_k());
        if let Some(means) = self.cache.means_of((self.layer, &self.lists()[kv_head]), grid, blocks)? {
            return Ok(means);
        }
        let keys = self.raw_keys()?;
        let of_head = &keys[kv_head * tokens * dim..][..tokens * dim];
        Ok(block_means(&of_head[(grid.first * dim).min(of_head.len())..], dim, grid.size, blocks))
    }

    fn leaf(&self, leaf: &ScoreLeaf) -> Option<&[f32]> {
        let known = self.known.iter().find(|known| known.leaf == *leaf && known.heads == self.heads)?;
        Some(&known.numbers)
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
        let what = "sums of attention";
        let pools = &self.cache.layers[self.layer];
        let sums = pools.sums.as_ref().ok_or(ScoreError::Missing { what })?;
        let rows = self.row_numbers();
        let rows = self.cache.engine.upload_indices(&[rows.len()], &rows)?;
        let read = self.cache.engine.read_rows(sums, &rows)?;
        let read = self.cache.engine.read(&[&read])?.wait()?;
        // `[kv_heads, tokens, group]` as `[query_heads, tokens]`.
        let (group, tokens, all) = (self.cache.geometry.group(), self.tokens(), read[0].to_f32_vec());
        let of = |head: usize, i: usize, token: usize| all[(head * tokens + token) * group + i];
        let heads = (0..self.heads.len()).flat_map(|head| (0..group).map(move |i| (head, i)));
        Ok(heads.flat_map(|(head, i)| (0..tokens).map(move |t| of(head, i, t))).collect())
    }
}
