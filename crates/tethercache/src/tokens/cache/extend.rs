//! New tokens: written to blocks, and attended with.

use tether_core::{
    AttendOptions, BlockTables, CoreError, HostTensor, LayerId, NewQueries, PagedKv, Readback, Side,
    TokenEngine, merge_partial,
};
use tether_score::tokens::{GridPlace, KeepSets};

use super::blocks::{HeadList, block_rows};
use super::observed::Recorded;
use super::reading::chooses_for_each;
use super::summaries::Summaries;
use super::{SequenceId, TokenCache, unknown};
use crate::Error;

/// A block of new tokens of one sequence in one layer. Tensors are `[tokens, heads, head_dim]` in the cache's dtype.
#[derive(Debug)]
pub struct NewTokens<'a, E: TokenEngine> {
    /// Rotated queries.
    pub q: &'a E::Tensor,
    /// Rotated keys.
    pub k: &'a E::Tensor,
    /// Values.
    pub v: &'a E::Tensor,
    /// Queries before the rotation, where the recipe needs them.
    pub raw_q: Option<&'a E::Tensor>,
    /// Position of each token.
    pub positions: &'a [i32],
    /// Where each token stands in a picture, `None` for text, where the recipe needs it; every layer is told. All are text without it.
    pub grid: Option<&'a [Option<GridPlace>]>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Adds new tokens to a layer of a sequence and attends with them, each to what the layer holds and to the new tokens up to itself:
    /// `[tokens, query_heads, head_dim_v]`. Logits are `q.k / sqrt(head_dim_k)`.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`], [`Error::LayerTokens`] when another layer has had other tokens,
    /// [`Error::Core`] for wrong shapes, dtypes and counts, for NaN where an engine sees it, and for what the device refuses; the sequence is as it
    /// was.
    pub fn extend(
        &mut self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        new: &NewTokens<'_, E>,
    ) -> Result<E::Tensor, Error> {
        let none = || CoreError::Count { what: "results of an attention", expected: 1, got: 0 };
        Ok(self.add(sequence, layer.into(), new, true)?.ok_or_else(none)?)
    }

    /// Adds new tokens as [`TokenCache::extend`] does, but attends with none: for tokens whose attention is known, such as those of a text that
    /// another cache has read.
    ///
    /// # Errors
    /// As [`TokenCache::extend`].
    pub fn take(
        &mut self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        new: &NewTokens<'_, E>,
    ) -> Result<(), Error> {
        self.add(sequence, layer.into(), new, false).map(|_| ())
    }

    fn add(
        &mut self,
        sequence: SequenceId,
        layer: LayerId,
        new: &NewTokens<'_, E>,
        attend: bool,
    ) -> Result<Option<E::Tensor>, Error> {
        let layer = self.layer_index(layer)?;
        let tokens = new.positions.len();
        self.check(new, tokens)?;
        let held = self.sequence(sequence)?;
        let seen = held.layers[layer].seen + tokens;
        if let Some(before) = layer.checked_sub(1).map(|l| held.layers[l].seen)
            && before != seen
        {
            return Err(Error::LayerTokens { layer: LayerId(layer as u32), expected: before, got: seen });
        }
        let mut last = held.layers[layer].heads.iter().filter_map(|h| h.positions.last()).max().copied();
        for (value, &position) in new.positions.iter().enumerate() {
            if last.is_some_and(|last| position <= last) {
                let requirement = "must ascend, from those of the tokens before on";
                return Err(CoreError::Geometry { field: "positions", value, requirement }.into());
            }
            last = Some(position);
        }
        // What the sequence holds, and then what is read of it where a choice holds; both take the new tokens.
        let mut heads: Vec<HeadList> = held.layers[layer].lists().cloned().collect();
        let fresh = self.take_blocks(layer, sequence, &mut heads, tokens)?;
        let mut summaries = self.take_summaries(sequence, layer)?;
        let mark = summaries.mark(self.geometry.head_dim_k);
        let result = self.write_and_attend((sequence, layer), &mut heads, new, &mut summaries, attend);
        let observed = |done| Ok((done, self.observe(layer, &mut heads[..self.geometry.kv_heads], new)?));
        let result = result.and_then(observed);
        if result.is_err() {
            summaries.back_to(mark);
        }
        let needs = self.planner.needs();
        let last_queries = needs.last_queries.max(self.probes_wanted());
        let entry = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        let entry = &mut entry.layers[layer];
        entry.summaries = summaries;
        let ((out, attended), recorded) = match result {
            Ok(done) => done,
            Err(e) => {
                for block in fresh {
                    self.layers[layer].pool.release(block)?;
                }
                return Err(e);
            }
        };
        // Blocks that were shared, and of which this sequence has a copy now.
        for (old, new) in entry.lists().zip(&heads) {
            for (&before, _) in old.blocks.iter().zip(&new.blocks).filter(|(a, b)| a != b) {
                self.layers[layer].pool.release(before)?;
            }
        }
        entry.read = heads.split_off(self.geometry.kv_heads);
        (entry.heads, entry.seen, entry.attended) = (heads, seen, attended);
        let width = self.geometry.query_heads * self.geometry.head_dim_k;
        // Nobody asks for more queries than tokens that are in blocks.
        let most = entry.heads.iter().map(HeadList::len).max().unwrap_or(0);
        let (last_queries, raw_queries) = (last_queries.min(most), needs.raw_queries.min(most));
        Recorded::push(&mut entry.recorded.queries, &recorded.queries, last_queries, width);
        Recorded::push(&mut entry.recorded.raw_queries, &recorded.raw_queries, raw_queries, width);
        Ok(out)
    }

    fn check(&self, new: &NewTokens<'_, E>, tokens: usize) -> Result<(), CoreError> {
        let g = &self.geometry;
        if tokens == 0 {
            return Err(CoreError::Count { what: "new tokens", expected: 1, got: 0 });
        }
        if let Some(got) = new.grid.map(<[_]>::len).filter(|&got| got != tokens) {
            return Err(CoreError::Count { what: "places in a grid", expected: tokens, got });
        }
        let q = [tokens, g.query_heads, g.head_dim_k];
        let tensors = [
            ("q", Some(new.q), q),
            ("k", Some(new.k), [tokens, g.kv_heads, g.head_dim_k]),
            ("v", Some(new.v), [tokens, g.kv_heads, g.head_dim_v]),
            ("raw_q", new.raw_q, q),
        ];
        for (what, tensor, expected) in tensors {
            let Some(tensor) = tensor else { continue };
            let (shape, dtype) = self.engine.describe(tensor);
            if shape != expected {
                return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: shape.into() });
            }
            if dtype != g.dtype {
                return Err(CoreError::DTypeMismatch { what, expected: g.dtype, got: dtype });
            }
            self.engine.check_finite(what, tensor)?;
        }
        Ok(())
    }

    /// Blocks for `tokens` more tokens of each head, appended to `heads`. A last block that others refer to is replaced by a copy. Returns the
    /// blocks that were taken.
    fn take_blocks(
        &mut self,
        layer: usize,
        sequence: SequenceId,
        heads: &mut [HeadList],
        tokens: usize,
    ) -> Result<Vec<u32>, Error> {
        let size = self.geometry.block_size;
        let shared = |pool: &tether_layout::BlockPool, head: &HeadList| {
            let partly = !head.len().is_multiple_of(size);
            partly && head.blocks.last().is_some_and(|&b| pool.references(b) > 1)
        };
        let more = |head: &HeadList| (head.len() + tokens).div_ceil(size) - head.blocks.len();
        let pool = &self.layers[layer].pool;
        let needed = heads.iter().map(|h| more(h) + usize::from(shared(pool, h))).sum();
        let renumbered = self.layers[layer].reserve(&self.engine, needed)?;
        if renumbered.is_some() {
            self.renumber(layer, renumbered);
            for (head, held) in heads.iter_mut().zip(self.sequence(sequence)?.layers[layer].lists()) {
                head.blocks.clone_from(&held.blocks);
            }
        }
        let blocks = &mut self.layers[layer];
        let taken = blocks.pool.allocate(needed)?;
        let mut fresh = taken.iter().copied();
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for head in heads {
            if shared(&blocks.pool, head)
                && let (Some(last), Some(copy)) = (head.blocks.last_mut(), fresh.next())
            {
                let rows = |block: u32| (0..size as u32).map(move |i| block * size as u32 + i);
                from.extend(rows(*last));
                to.extend(rows(copy));
                *last = copy;
            }
            let count = more(head);
            head.blocks.extend(fresh.by_ref().take(count));
        }
        if let Err(e) = copy_rows(&self.engine, blocks, &from, &to) {
            for block in taken {
                blocks.pool.release(block)?;
            }
            return Err(e.into());
        }
        Ok(taken)
    }

    /// The summaries of a layer, which are put back when the new tokens are in.
    fn take_summaries(&mut self, sequence: SequenceId, layer: usize) -> Result<Summaries, Error> {
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        Ok(std::mem::take(&mut held.layers[layer].summaries))
    }

    /// Writes the new tokens to all lists, and attends with them over those that are read, unless that is known. Returns also how many tokens
    /// the last one attended to, summed over key heads.
    fn write_and_attend(
        &mut self,
        (sequence, layer): (SequenceId, usize),
        lists: &mut [HeadList],
        new: &NewTokens<'_, E>,
        summaries: &mut Summaries,
        attend: bool,
    ) -> Result<(Option<E::Tensor>, usize), Error> {
        let (engine, g, blocks) = (&self.engine, &self.geometry, &mut self.layers[layer]);
        let tokens = new.positions.len();
        for heads in lists.chunks_mut(g.kv_heads) {
            let mut rows = Vec::with_capacity(tokens * heads.len());
            for i in 0..tokens {
                rows.extend(heads.iter().map(|h| h.row(h.len() + i, g.block_size)));
            }
            let rows = engine.upload_indices(&[tokens, heads.len()], &rows)?;
            engine.write_rows(&mut blocks.k, &rows, new.k)?;
            engine.write_rows(&mut blocks.v, &rows, new.v)?;
            for head in heads {
                head.append(new.positions);
            }
        }
        lists[..g.kv_heads].iter_mut().for_each(|head| head.stand(new.grid));
        let held = self.sequence(sequence)?;
        let choose = attend && held.decoding && chooses_for_each(self.planner.recipe());
        let held = (&held.layers[layer], layer);
        let choices = self.summarise(held, &lists[..self.geometry.kv_heads], new, summaries, choose)?;
        let (engine, g, blocks) = (&self.engine, &self.geometry, &self.layers[layer]);
        let heads = &lists[lists.len() - g.kv_heads..];
        let scale = 1.0 / (g.head_dim_k as f32).sqrt();
        let all: usize = heads.iter().map(HeadList::len).sum();
        if let Some(choices) = &choices {
            let before = heads[0].len() - tokens;
            let everything = |(i, c): (usize, &KeepSets)| c.total() == heads.len() * (before + i + 1);
            if !choices.iter().enumerate().all(everything) {
                let attended = choices.last().map_or(all, KeepSets::total);
                return Ok((Some(self.attend_to(layer, heads, new, choices, scale)?), attended));
            }
        }
        if !attend {
            return Ok((None, all));
        }
        let (indptr, pages) = block_rows(heads);
        let lengths: Vec<u32> = heads.iter().map(|h| h.len() as u32).collect();
        let tables = BlockTables {
            page_size: g.block_size,
            groups: g.kv_heads,
            indptr: &indptr,
            pages: &pages,
            lengths: &lengths,
        };
        let tables = engine.upload_tables(&tables)?;
        let queries = NewQueries { q: new.q, starts: &[0, tokens as u32], positions: None };
        let kv = PagedKv { k: &blocks.k, v: &blocks.v, positions: None };
        let attention = engine.upload_attention(&AttendOptions::scaled(scale))?;
        let (out, lse) = engine.attend_paged(&queries, &kv, &tables, &attention)?;
        if heads.iter().all(|h| h.compensation.is_none() && h.coded.is_empty()) {
            return Ok((Some(out), all));
        }
        Ok((Some(self.merged(heads, new, (out, lse), scale)?), all))
    }

    /// Attention to what is in no block too, merged on the host: coded tokens, and the one that stands for those that left.
    fn merged(
        &self,
        heads: &[HeadList],
        new: &NewTokens<'_, E>,
        (out, lse): (E::Tensor, E::Tensor),
        scale: f32,
    ) -> Result<E::Tensor, Error> {
        let g = &self.geometry;
        let read = self.engine.read(&[&out, &lse, new.q])?.wait()?;
        let [mut out, mut lse, q] = [0, 1, 2].map(|i| read[i].to_f32_vec());
        let (dk, dv, group) = (g.head_dim_k, g.head_dim_v, g.group());
        for (row, lse) in lse.iter_mut().enumerate() {
            let Some(token) = &heads[row % g.query_heads / group].compensation else { continue };
            let query = &q[row * dk..][..dk];
            let dot: f32 = query.iter().zip(&token.key).map(|(a, b)| a * b).sum();
            let other = dot * scale + token.logit_bias();
            merge_partial((&mut out[row * dv..][..dv], std::slice::from_mut(lse)), (&token.value, &[other]))?;
        }
        let q: Vec<f32> = q.iter().map(|x| x * scale).collect();
        for (number, head) in heads.iter().enumerate().filter(|(_, h)| !h.coded.is_empty()) {
            // Rows of this head's queries, together.
            let rows = (0..new.positions.len())
                .flat_map(|token| (0..group).map(move |i| token * g.query_heads + number * group + i));
            let of = |x: &[f32], dim: usize| -> Vec<f32> {
                rows.clone().flat_map(|row| &x[row * dim..][..dim]).copied().collect()
            };
            let (queries, mut own, mut own_lse) = (of(&q, dk), of(&out, dv), of(&lse, 1));
            head.coded.attend(&queries, (dk, dv), (&mut own, &mut own_lse))?;
            for (row, own) in rows.zip(own.chunks_exact(dv)) {
                out[row * dv..][..dv].copy_from_slice(own);
            }
        }
        let data = tether_core::TensorData::narrowed(g.dtype, &out);
        let merged = HostTensor::new(&[new.positions.len(), g.query_heads, dv], data)?;
        Ok(self.engine.upload(&merged)?)
    }

    /// What the recipe looks at later: the new tokens' queries, and the attention that each token got.
    fn observe(
        &self,
        layer: usize,
        heads: &mut [HeadList],
        new: &NewTokens<'_, E>,
    ) -> Result<Recorded, Error> {
        let needs = self.planner.needs();
        let mut recorded = Recorded::default();
        if needs.last_queries > 0 || needs.accumulated_attention || self.probes_wanted() > 0 {
            recorded.queries = self.host_rows(new.q)?;
        }
        if needs.accumulated_attention {
            self.accumulate(layer, heads, &recorded.queries)?;
        }
        if let (1.., Some(raw)) = (needs.raw_queries, new.raw_q) {
            recorded.raw_queries = self.host_rows(raw)?;
        }
        Ok(recorded)
    }

    /// Adds the attention of the last tokens' queries `[tokens, query_heads, head_dim]` to what their heads' tokens had.
    fn accumulate(&self, layer: usize, heads: &mut [HeadList], q: &[f32]) -> Result<(), Error> {
        let g = &self.geometry;
        let (dim, group) = (g.head_dim_k, g.group());
        for (number, head) in heads.iter_mut().enumerate() {
            let keys = self.rows_of(layer, Side::Keys, std::slice::from_ref(head))?;
            head.mass.resize(group, Vec::new());
            for (of_group, mass) in head.mass.iter_mut().enumerate() {
                mass.resize(head.positions.len(), 0.0);
                let of_query = number * group + of_group;
                let queries = Recorded::by_head(q, usize::MAX, g.query_heads, of_query..of_query + 1, dim);
                tether_score::tokens::add_causal_mass(mass, &queries, &keys, dim);
            }
        }
        Ok(())
    }
}

/// Copies rows of both pools to other rows of them.
pub(super) fn copy_rows<E: TokenEngine>(
    engine: &E,
    blocks: &mut super::LayerBlocks<E>,
    from: &[u32],
    to: &[u32],
) -> Result<(), CoreError> {
    if from.is_empty() {
        return Ok(());
    }
    let (from, to) = (engine.upload_indices(&[from.len()], from)?, engine.upload_indices(&[to.len()], to)?);
    let (k, v) = (engine.read_rows(&blocks.k, &from)?, engine.read_rows(&blocks.v, &from)?);
    engine.write_rows(&mut blocks.k, &to, &k)?;
    engine.write_rows(&mut blocks.v, &to, &v)
}
