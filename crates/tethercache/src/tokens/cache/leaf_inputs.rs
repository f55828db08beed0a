//! Leaves of scores, queued with what they are made of: rows, queries of whichever sort, and what is known of the
//! model.

use std::ops::Range;

use tether_core::{
    CoreError, HostTensor, LeafQueries, MeanRotation, ObservedLayer, PageLists, ScoreLeaf, TokenEngine,
    TokenLayout,
};
use tether_score::tokens::{BlockGrid, token_grid};

use super::head_pages::HeadPages;
use super::probes::{Probes, heads_of};
use super::{SequenceLayer, TokenCache, TokenGeometry};
use crate::Error;

/// The output projections of all layers, `[hidden, query_heads * head_dim_v]` each, as those of their query heads,
/// `[query_heads, hidden, head_dim_v]`.
pub(super) fn projections<E: TokenEngine>(
    engine: &E,
    geometry: &TokenGeometry,
    of_layers: &[Vec<f32>],
) -> Result<Vec<E::Tensor>, CoreError> {
    let (heads, dim) = (geometry.query_heads, geometry.head_dim_v);
    let by_head = |weights: &Vec<f32>| {
        let of_head =
            |head: usize| weights.chunks_exact(heads * dim).flat_map(move |row| &row[head * dim..][..dim]);
        let numbers: Vec<f32> = (0..heads).flat_map(of_head).copied().collect();
        engine.upload(&HostTensor::from_f32(&[heads, weights.len() / (heads * dim), dim], numbers)?)
    };
    of_layers.iter().map(by_head).collect()
}

impl<E: TokenEngine> TokenCache<E> {
    /// Whether the device works a leaf out of what there is of heads that hold at most `tokens`.
    pub(super) fn can_observe(
        &self,
        (layer, held): (usize, &SequenceLayer<E::Tensor>),
        leaf: &ScoreLeaf,
        tokens: usize,
    ) -> bool {
        if let ScoreLeaf::BlockMeanLogit { first, size, .. } = *leaf {
            let grid = BlockGrid { first, size };
            let known = |list: &HeadPages| {
                self.parts_of_blocks((layer, list), grid, leaf.columns(list.len())).is_some()
            };
            return self.engine.observes(&ScoreLeaf::MeanLogit { queries: 1 })
                && held.recorded.raw_queries.tokens() > 0
                && held.heads.iter().all(known);
        }
        let recorded = &held.recorded;
        let there = match leaf.queries() {
            LeafQueries::None if *leaf == ScoreLeaf::ProjectedValueNorm => !self.projections.is_empty(),
            LeafQueries::None => !leaf.is_of_frames() || self.rope().is_ok(),
            LeafQueries::Last(count) => recorded.queries.tokens() >= count,
            LeafQueries::Sampled(_) => recorded.queries.tokens() >= tokens,
            LeafQueries::Probes => probes(held).is_some(),
            LeafQueries::Raw { .. } => recorded.raw_queries.tokens() > 0 && self.rope().is_ok(),
        };
        there && self.engine.observes(leaf)
    }

    /// Queues a leaf of heads that hold equally many tokens.
    pub(super) fn observe(
        &self,
        layer: usize,
        held: &SequenceLayer<E::Tensor>,
        heads: Range<usize>,
        leaf: &ScoreLeaf,
    ) -> Result<E::Tensor, Error> {
        if let ScoreLeaf::BlockMeanLogit { first, size, queries } = *leaf {
            return Ok(self.block_logits((layer, held), heads, BlockGrid { first, size }, queries)?);
        }
        let (engine, group, recorded) = (&self.engine, self.geometry.group(), &held.recorded);
        let lists = &held.heads[heads.clone()];
        let tokens = lists[0].len();
        let query_heads = heads.start * group..heads.end * group;
        let of_probes = probes(held);
        let queries = match leaf.queries() {
            LeafQueries::None => None,
            LeafQueries::Last(count) => recorded.queries.on_device(engine, count, query_heads.clone())?,
            LeafQueries::Sampled(count) => {
                let chosen: Vec<usize> = ScoreLeaf::sampled_tokens(count, tokens).collect();
                recorded.queries.chosen_on_device(engine, tokens, &chosen, query_heads.clone())?
            }
            LeafQueries::Probes => {
                of_probes.map(|p| heads_of(engine, &p.queries, p.count, query_heads.clone())).transpose()?
            }
            LeafQueries::Raw { sink } => {
                let rows = recorded.raw_queries.tokens().min(tokens);
                // Queries of the first tokens are among the recorded ones only when all were recorded.
                let skipped = sink.saturating_sub(tokens - rows).min(rows.saturating_sub(1));
                recorded.raw_queries.on_device(engine, rows - skipped, query_heads.clone())?
            }
        };
        let probe_keys = of_probes.map(|p| heads_of(engine, &p.keys, p.count, heads.clone())).transpose()?;
        let rotation = match *leaf {
            ScoreLeaf::ExpectedAttention { future, .. } => {
                let rope = self.rope()?;
                let next = lists[0].positions.last().map_or(0, |p| i64::from(p) + 1);
                let (frequencies, dim) = ((rope.frequencies(), rope.pairing()), self.geometry.head_dim_k);
                Some(MeanRotation::new(frequencies, rope.attention_factor(), (next, future), dim)?)
            }
            _ => None,
        };
        let projection = match (leaf, self.projections.get(layer)) {
            (ScoreLeaf::ProjectedValueNorm, Some(all)) => {
                let hidden = engine.describe(all).0[1];
                Some(heads_of(engine, all, hidden, query_heads)?)
            }
            _ => None,
        };
        let frames = match leaf.is_of_frames() {
            true => Some((self.raw_keys(layer, lists)?, token_grid(&lists[0].grid))),
            false => None,
        };
        let pools = &self.layers[layer];
        let rows = self.rows_on_device(layer, lists)?;
        let layer = ObservedLayer {
            sums: pools.sums.as_ref(),
            queries: queries.as_ref(),
            probe_keys: probe_keys.as_ref(),
            rotation: rotation.as_ref(),
            projection: projection.as_ref(),
            raw_keys: frames.as_ref().map(|(keys, _)| keys),
            grid: frames.as_ref().map(|(_, grid)| grid),
            ..ObservedLayer::new((&pools.k, &pools.v), &rows, self.geometry.scale())
        };
        Ok(engine.observe(leaf, &layer)?)
    }

    /// Keys of lists of equally many tokens before the rotation, token after token, `[tokens, heads, head_dim_k]`.
    fn raw_keys(&self, layer: usize, lists: &[HeadPages]) -> Result<E::Tensor, Error> {
        let (engine, size, tokens) = (&self.engine, self.geometry.block_size, lists[0].len());
        let all = || (0..tokens).flat_map(|t| lists.iter().map(move |list| (list, t)));
        let rows: Vec<u32> = all().map(|(list, t)| list.row(t, size)).collect();
        let back: Vec<i32> = all().map(|(list, t)| -list.positions.at(t)).collect();
        // Every key is turned by itself: heads may hold different tokens.
        let keys =
            engine.read_rows(&self.layers[layer].k, &engine.upload_indices(&[rows.len(), 1], &rows)?)?;
        let rotation = engine.upload_rotation(&self.rope()?.to_raw(&[&back]))?;
        let keys = engine.rotated(&keys, TokenLayout::Nhd, &rotation)?;
        // Next to each other already; what is told is how many heads they are of.
        let places: Vec<u32> = (0..rows.len() as u32).collect();
        Ok(engine.read_rows(&keys, &engine.upload_indices(&[tokens, lists.len()], &places)?)?)
    }

    /// The rows of lists of equally many tokens, in the order of positions. Those of lists that are in order are told
    /// from the page table that is on the device.
    fn rows_on_device(&self, layer: usize, lists: &[HeadPages]) -> Result<E::Indices, CoreError> {
        let (size, tokens) = (self.geometry.block_size, lists[0].len());
        if lists.iter().all(|list| list.is_in_order() && list.is_in_table()) {
            let starts: Vec<u32> = lists.iter().map(|list| list.region.start()).collect();
            let lengths = vec![tokens as u32; lists.len()];
            let lists =
                PageLists { page_size: size, groups: lists.len(), starts: &starts, lengths: &lengths };
            return self
                .engine
                .list_rows(&self.engine.page_lists(self.layers[layer].regions.table(), &lists)?);
        }
        let rows: Vec<u32> = lists.iter().flat_map(|list| (0..tokens).map(|t| list.row(t, size))).collect();
        self.engine.upload_indices(&[lists.len(), tokens], &rows)
    }
}

/// Probes of the text as it is.
fn probes<T>(held: &SequenceLayer<T>) -> Option<&Probes<T>> {
    held.probes.as_ref().filter(|p| p.seen == held.seen)
}
