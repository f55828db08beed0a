//! Eviction: the recipe's decisions for every layer, and then what they do.

use serde::{Deserialize, Serialize};
use tether_core::{CoreError, HostTensor, Readback, Side, TensorData, TokenEngine};
use tether_edit::tokens::{Merge, TokenEdit, apply_merges};
use tether_score::tokens::{KeepSets, TokenObservation};

use super::blocks::HeadList;
use super::coded::CodedHead;
use super::extend::copy_rows;
use super::observed::Observed;
use super::reading::chooses_for_each;
use super::{Sequence, SequenceId, SequenceLayer, TokenCache, unknown};
use crate::Error;
use crate::tokens::{LayerTurn, SequenceState, TokenPlan};

/// Tokens of a head that are to be coded, as they are in its blocks.
#[derive(Debug)]
pub(super) struct Leaving {
    pub positions: Vec<i32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// The codes that a head is to have.
#[derive(Debug)]
pub(super) struct Coding {
    pub coded: CodedHead,
    /// Tokens that are codes from now on, and tokens that are not there any more.
    pub new: usize,
    pub gone: usize,
}

/// What an eviction did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvictReport {
    /// Tokens that left, summed over layers and key heads.
    pub evicted: usize,
    /// Tokens that stayed, likewise.
    pub kept: usize,
    /// Tokens that others became part of, likewise.
    pub merged: usize,
    /// Tokens that are codes from now on, likewise.
    pub coded: usize,
    /// Under [`super::super::RetentionPart`], what the allocation foresees: the expected squared change of an attention output, to first order, summed over layers and key
    /// heads. 0 where nothing was allocated.
    pub distortion: f64,
    /// What `resident_bytes` fell by; 0 where it rose, as it does where a sequence that shared its blocks needed more of its own than it gave up.
    /// Free blocks that the cache keeps for the next tokens are not free memory.
    pub freed_bytes: u64,
    /// Bytes of keys and values that are held now, by all sequences, in whatever form ([`super::super::TokenBytes::held`]).
    pub resident_bytes: u64,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Carries the recipe out: after the prompt, and from then on whenever enough tokens have come since the last time and the recipe evicts
    /// while a text grows; and codes tokens that are no longer new, where the recipe has a codec. Does nothing when nothing is due. Under a recipe with `retain`
    /// nothing leaves: what is read is chosen, from now on or, where it is chosen for every token, by each of the tokens that follow.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::Score`] for observations that are missing or cannot be ranked, [`Error::Edit`], [`Error::Core`] for numbers that have no
    /// codes; nothing has changed then. [`Error::Core`] when the device fails.
    pub fn evict(&mut self, sequence: SequenceId) -> Result<EvictReport, Error> {
        let held = self.sequence(sequence)?;
        let mut state = held.state.clone();
        let plans = if self.is_due(held) { self.plans(held, &mut state)? } else { Vec::new() };
        self.carry_out(sequence, state, plans)
    }

    /// Carries plans of all layers out, or none, and codes what is no longer new. Nothing has changed when this fails, unless the device did.
    pub(super) fn carry_out(
        &mut self,
        sequence: SequenceId,
        state: SequenceState,
        mut plans: Vec<TokenPlan>,
    ) -> Result<EvictReport, Error> {
        let held = self.sequence(sequence)?;
        if plans.iter().any(|p| p.positions.is_some()) {
            self.rope()?;
        }
        let retain = self.planner.recipe().retain && !plans.is_empty();
        let left = |plan: &TokenPlan| if retain { 0 } else { plan.total - plan.keep.total() };
        let mut report = EvictReport { evicted: plans.iter().map(left).sum(), ..EvictReport::default() };
        let (coded, distortion) = self.code(held, &mut plans)?;
        report.distortion = distortion;
        let seen = held.layers[0].seen;
        let before = self.bytes().held();
        for plan in plans.into_iter().filter(|p| retain || !p.is_nothing()) {
            if retain {
                self.read_only(sequence, &plan)?;
            } else {
                report.merged += plan.edits.iter().filter(|e| matches!(e, TokenEdit::Merge(_))).count();
                self.apply(sequence, &plan, SequenceLayer::heads_mut)?;
            }
            self.give_back(plan.layer)?;
        }
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        for (layer, heads) in held.layers.iter_mut().zip(coded) {
            for (head, Coding { coded, new, gone }) in layer.heads.iter_mut().zip(heads) {
                (report.coded, report.evicted) = (report.coded + new, report.evicted + gone);
                head.coded = coded;
            }
        }
        if !held.decoding || report.evicted > 0 || retain {
            held.evicted_at = seen;
        }
        (held.state, held.decoding) = (state, true);
        held.layers.iter_mut().for_each(|l| l.probes = None);
        report.kept = held.layers.iter().flat_map(|l| &l.heads).map(HeadList::held).sum();
        report.resident_bytes = self.bytes().held();
        report.freed_bytes = before.saturating_sub(report.resident_bytes);
        Ok(report)
    }

    /// Codes of tokens that are no longer new, of each layer's heads, and plans that leave them out of the blocks; and what an allocation foresees. Nothing is changed yet,
    /// and there is nothing where nothing is to be coded.
    fn code(&self, held: &Sequence, plans: &mut Vec<TokenPlan>) -> Result<(Vec<Vec<Coding>>, f64), Error> {
        let Some(part) = &self.planner.recipe().codec else { return Ok((Vec::new(), 0.0)) };
        let mut all = Vec::with_capacity(held.layers.len());
        for (layer, of_layer) in held.layers.iter().enumerate() {
            if plans.len() == layer {
                let lengths: Vec<usize> = of_layer.heads.iter().map(HeadList::len).collect();
                plans.push(TokenPlan::nothing(layer, &lengths));
            }
            let plan = &mut plans[layer];
            let mut leaving = Vec::with_capacity(of_layer.heads.len());
            let mut stays = Vec::with_capacity(of_layer.heads.len());
            for (head, set) in of_layer.heads.iter().zip(plan.keep.sets()) {
                let places = part.sink.min(set.len())..(part.sink + part.leaving(set.len())).min(set.len());
                let tokens = &set[places.clone()];
                leaving.push(Leaving {
                    positions: tokens.iter().map(|&t| head.positions[t as usize]).collect(),
                    keys: self.tokens_of(layer, Side::Keys, head, tokens)?,
                    values: self.tokens_of(layer, Side::Values, head, tokens)?,
                });
                stays.push([&set[..places.start], &set[places.end..]].concat());
            }
            plan.keep = KeepSets::new(stays);
            all.push(leaving);
        }
        if let Some(retention) = &part.retention {
            return self.allocated(held, plans, all, (part, retention));
        }
        let of_head = |(head, leaving): (&HeadList, Leaving)| {
            let Leaving { positions, keys, values } = leaving;
            let coded = head.coded.with(part, &self.rotations, &positions, (&keys, &values))?;
            Ok(Coding { coded, new: positions.len(), gone: 0 })
        };
        let of_layer = |(layer, leaving): (&SequenceLayer, Vec<Leaving>)| {
            layer.heads.iter().zip(leaving).map(of_head).collect::<Result<Vec<_>, Error>>()
        };
        let coded = held.layers.iter().zip(all).map(of_layer).collect::<Result<Vec<_>, _>>()?;
        Ok((coded, 0.0))
    }

    /// True when [`TokenCache::evict`] would choose now, and so ask for what the recipe needs.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn evict_is_due(&self, sequence: SequenceId) -> Result<bool, Error> {
        Ok(self.is_due(self.sequence(sequence)?))
    }

    fn is_due(&self, held: &Sequence) -> bool {
        let recipe = self.planner.recipe();
        let seen = held.layers[0].seen;
        match recipe.decode {
            _ if !self.planner.evicts() || seen == 0 || chooses_for_each(recipe) => false,
            _ if !held.decoding => true,
            Some(part) => seen - held.evicted_at >= part.every,
            None => false,
        }
    }

    /// Plans of all layers.
    pub(super) fn plans(&self, held: &Sequence, state: &mut SequenceState) -> Result<Vec<TokenPlan>, Error> {
        let mut plans = Vec::with_capacity(held.layers.len());
        for (layer, of_layer) in held.layers.iter().enumerate() {
            let turn = LayerTurn {
                layer,
                layers: self.geometry.layers,
                seen: of_layer.seen,
                decoding: held.decoding,
            };
            let longest = of_layer.heads.iter().map(HeadList::len).max().unwrap_or(0);
            let uniform = of_layer.heads.iter().all(|h| h.len() == longest);
            // What is alike in all heads is alike at the same places of their pictures.
            let alike = |h: &HeadList| h.grid == of_layer.heads[0].grid;
            let together = uniform && (!self.planner.needs().grid || of_layer.heads.iter().all(alike));
            plans.push(if together {
                let seen = Observed::held(self, of_layer, layer, 0..self.geometry.kv_heads);
                self.planner.plan(turn, &seen, state)?
            } else {
                let heads: Vec<_> = (0..self.geometry.kv_heads)
                    .map(|head| Observed::held(self, of_layer, layer, head..head + 1))
                    .collect();
                let heads: Vec<&dyn TokenObservation> = heads.iter().map(|h| h as _).collect();
                self.planner.plan_heads(turn, &heads)?
            });
        }
        Ok(plans)
    }

    /// Keys or values of the tokens of `heads`, head after head.
    pub(super) fn rows_of(
        &self,
        layer: usize,
        side: Side,
        heads: &[HeadList],
    ) -> Result<Vec<f32>, CoreError> {
        let size = self.geometry.block_size;
        self.rows(layer, side, heads.iter().flat_map(|h| (0..h.len()).map(|t| h.row(t, size))).collect())
    }

    /// Keys or values of some of a head's tokens.
    pub(super) fn tokens_of(
        &self,
        layer: usize,
        side: Side,
        head: &HeadList,
        tokens: &[u32],
    ) -> Result<Vec<f32>, CoreError> {
        let size = self.geometry.block_size;
        self.rows(layer, side, tokens.iter().map(|&t| head.row(t as usize, size)).collect())
    }

    /// Rows of a layer's pool.
    pub(super) fn rows(&self, layer: usize, side: Side, rows: Vec<u32>) -> Result<Vec<f32>, CoreError> {
        let rows = self.engine.upload_indices(&[rows.len()], &rows)?;
        let blocks = &self.layers[layer];
        let pool = match side {
            Side::Keys => &blocks.k,
            Side::Values => &blocks.v,
        };
        let read = self.engine.read_rows(pool, &rows)?;
        Ok(self.engine.read(&[&read])?.wait()?[0].to_f32_vec())
    }

    /// Carries a plan out on the lists that `of` names.
    pub(super) fn apply(
        &mut self,
        sequence: SequenceId,
        plan: &TokenPlan,
        of: impl Fn(&mut SequenceLayer) -> &mut Vec<HeadList>,
    ) -> Result<(), Error> {
        self.merge(sequence, plan)?;
        let (layer, size) = (plan.layer, self.geometry.block_size);
        let heads = self.lists_of(sequence, layer, &of)?;
        let moves = self.moves(&heads, plan)?;
        let pool = &self.layers[layer].pool;
        let mut needed = 0;
        // Where tokens will lie, and which blocks are written for it.
        let mut laid = Vec::with_capacity(heads.len());
        for (number, (head, set)) in heads.iter().zip(plan.keep.sets()).enumerate() {
            let moved = moves.as_ref().map_or(&[][..], |m| &m[number].places);
            let places = head.places_without_gaps(set);
            let written = head.written(set, &places, moved, size);
            needed += written.iter().filter(|&&b| pool.references(head.blocks[b]) > 1).count();
            laid.push((places, written));
        }
        let renumbered = self.layers[layer].reserve(&self.engine, needed)?;
        self.renumber(layer, renumbered);

        let old = self.lists_of(sequence, layer, &of)?;
        let blocks = &mut self.layers[layer];
        let mut fresh = blocks.pool.allocate(needed)?.into_iter();
        let (mut heads, mut given_up) = (old.clone(), Vec::new());
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (((head, old), set), (places, written)) in
            heads.iter_mut().zip(&old).zip(plan.keep.sets()).zip(laid)
        {
            head.blocks.truncate(set.len().div_ceil(size));
            for block in written {
                // Others read this block: what stays of it goes to one of our own.
                let block = &mut head.blocks[block];
                if blocks.pool.references(*block) > 1
                    && let Some(own) = fresh.next()
                {
                    *block = own;
                }
            }
            head.lie(places);
            let kept = head.blocks.iter().map(Some).chain(std::iter::repeat(None));
            given_up.extend(old.blocks.iter().zip(kept).filter(|(a, b)| Some(*a) != *b).map(|(a, _)| *a));
            for (number, &token) in set.iter().enumerate() {
                let (source, target) = (old.row(token as usize, size), head.row(number, size));
                if source != target {
                    from.push(source);
                    to.push(target);
                }
            }
            head.positions = set.iter().map(|&t| old.positions[t as usize]).collect();
            if !old.grid.is_empty() {
                head.grid = set.iter().map(|&t| old.grid[t as usize]).collect();
            }
            for (mass, old) in head.mass.iter_mut().zip(&old.mass) {
                *mass = set.iter().map(|&t| old[t as usize]).collect();
            }
        }
        copy_rows(&self.engine, blocks, &from, &to)?;
        if let Some(moves) = moves {
            let (mut rows, mut keys) = (Vec::new(), Vec::new());
            for (head, moves) in heads.iter_mut().zip(moves) {
                rows.extend(moves.places.iter().map(|&place| head.row(place, size)));
                keys.extend(moves.keys);
                (head.positions, head.homes) = (moves.positions, moves.homes);
            }
            if !rows.is_empty() {
                let keys = TensorData::narrowed(self.geometry.dtype, &keys);
                let keys = HostTensor::new(&[rows.len(), self.geometry.head_dim_k], keys)?;
                let rows = self.engine.upload_indices(&[rows.len()], &rows)?;
                self.engine.write_rows(&mut blocks.k, &rows, &self.engine.upload(&keys)?)?;
            }
        }
        for block in given_up {
            blocks.pool.release(block)?;
        }
        for edit in &plan.edits {
            if let TokenEdit::Compensate(token) = edit {
                match &mut heads[token.head].compensation {
                    Some(own) => own.absorb(token)?,
                    none => *none = Some(token.clone()),
                }
            }
        }
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        *of(&mut held.layers[layer]) = heads;
        Ok(())
    }

    fn lists_of(
        &mut self,
        sequence: SequenceId,
        layer: usize,
        of: impl Fn(&mut SequenceLayer) -> &mut Vec<HeadList>,
    ) -> Result<Vec<HeadList>, Error> {
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        Ok(of(&mut held.layers[layer]).clone())
    }

    /// Gives a head blocks of its own where others read them too, and returns its list.
    fn own_blocks(&mut self, sequence: SequenceId, layer: usize, head: usize) -> Result<HeadList, Error> {
        let size = self.geometry.block_size as u32;
        let shared = |cache: &Self, list: &HeadList| {
            list.blocks.iter().filter(|&&b| cache.layers[layer].pool.references(b) > 1).count()
        };
        let needed = shared(self, &self.sequence(sequence)?.layers[layer].heads[head]);
        let renumbered = self.layers[layer].reserve(&self.engine, needed)?;
        self.renumber(layer, renumbered);
        let mut list = self.sequence(sequence)?.layers[layer].heads[head].clone();
        let blocks = &mut self.layers[layer];
        let mut fresh = blocks.pool.allocate(needed)?.into_iter();
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for block in &mut list.blocks {
            if blocks.pool.references(*block) == 1 {
                continue;
            }
            let Some(own) = fresh.next() else { break };
            from.extend(*block * size..(*block + 1) * size);
            to.extend(own * size..(own + 1) * size);
            blocks.pool.release(*block)?;
            *block = own;
        }
        copy_rows(&self.engine, blocks, &from, &to)?;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        held.layers[layer].heads[head] = list.clone();
        Ok(list)
    }

    /// Writes merged keys and values where the kept ones are.
    fn merge(&mut self, sequence: SequenceId, plan: &TokenPlan) -> Result<(), Error> {
        let of = |edit: &TokenEdit| match edit {
            TokenEdit::Merge(merge) => Some(merge.clone()),
            TokenEdit::Compensate(_) => None,
        };
        let merges: Vec<Merge> = plan.edits.iter().filter_map(of).collect();
        let (layer, g) = (plan.layer, self.geometry.clone());
        for head in 0..g.kv_heads {
            let own: Vec<Merge> =
                merges.iter().filter(|m| m.head == head).map(|m| Merge { head: 0, ..m.clone() }).collect();
            if own.is_empty() {
                continue;
            }
            let list = self.sequence(sequence)?.layers[layer].heads[head].clone();
            let read = |side| self.rows_of(layer, side, std::slice::from_ref(&list));
            let (mut k, mut v) = (read(Side::Keys)?, read(Side::Values)?);
            apply_merges(&mut k, &mut v, list.len(), (g.head_dim_k, g.head_dim_v), &own)?;
            let list = self.own_blocks(sequence, layer, head)?;
            let rows: Vec<u32> = own.iter().map(|m| list.row(m.into as usize, g.block_size)).collect();
            let rows = self.engine.upload_indices(&[rows.len()], &rows)?;
            let chosen = |data: &[f32], dim: usize| {
                let rows = own.iter().flat_map(|m| &data[m.into as usize * dim..][..dim]);
                let numbers: Vec<f32> = rows.copied().collect();
                let data = TensorData::narrowed(g.dtype, &numbers);
                self.engine.upload(&HostTensor::new(&[own.len(), dim], data)?)
            };
            let (k, v) = (chosen(&k, g.head_dim_k)?, chosen(&v, g.head_dim_v)?);
            let blocks = &mut self.layers[layer];
            self.engine.write_rows(&mut blocks.k, &rows, &k)?;
            self.engine.write_rows(&mut blocks.v, &rows, &v)?;
        }
        Ok(())
    }
}
