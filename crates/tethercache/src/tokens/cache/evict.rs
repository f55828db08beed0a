//! Eviction: the recipe's decisions for every layer, and then what they do.

use serde::{Deserialize, Serialize};
use tether_core::{CoreError, Readback, Side, TokenEngine};
use tether_score::tokens::KeptIndices;

use super::arrange::{Arranged, arranged_together};
use super::code_pool::LayerCodes;
use super::coded::{CodedHead, Coder, SharedFrames};
use super::head_pages::HeadPages;
use super::layer_pools::Shrunk;
use super::pending::{Pending, PendingLayer};
use super::reading::chooses_for_each;
use super::scoring::Decisions;
use super::{Sequence, SequenceId, SequenceLayer, TokenCache, unknown};
use crate::Error;
use crate::tokens::{CodecPart, SequenceState, TokenPlan};

/// The codes that a head is to have.
#[derive(Clone, Debug)]
pub(super) struct Coding {
    pub coded: CodedHead,
    /// Tokens that are codes from now on, and tokens that are not there any more.
    pub new: usize,
    pub gone: usize,
}

/// The codes that a layer is to have.
#[derive(Clone, Debug)]
pub(super) struct LayerCoding<T> {
    pub heads: Vec<Coding>,
    pub frames: SharedFrames<T>,
}

/// The codes that all layers are to have, and what an allocation foresees.
pub(super) type Codings<T> = (Vec<LayerCoding<T>>, f64);

impl<T> LayerCoding<T> {
    /// What it has.
    pub(super) fn unchanged(layer: &SequenceLayer<T>) -> Self {
        let same = |head: &HeadPages| Coding { coded: head.coded.clone(), new: 0, gone: 0 };
        Self { heads: layer.heads.iter().map(same).collect(), frames: layer.frames.clone() }
    }
}

/// What an eviction did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvictReport {
    /// Tokens that left, summed over layers and key heads.
    pub evicted: usize,
    /// Tokens that stayed, likewise.
    pub kept: usize,
    /// Tokens that others became part of, likewise. Where a device finds out which are most alike, all that others
    /// may have become part of: it is not waited for.
    pub merged: usize,
    /// Tokens that are codes from now on, likewise.
    pub coded: usize,
    /// Under [`super::super::RetentionPart`], what the allocation foresees: the expected squared change of an attention output, to first order, summed over layers and key
    /// heads. 0 where nothing was allocated.
    pub distortion: f64,
    /// What `resident_bytes` fell by; 0 where it rose, as it does where a sequence that shared its pages needed more of its own than it gave up.
    /// Free pages that the cache keeps for the next tokens are not free memory.
    pub freed_bytes: u64,
    /// Bytes of keys and values that are held now, by all sequences, in whatever form ([`super::super::TokenBytes::held`]).
    pub resident_bytes: u64,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Carries the recipe out: after the prompt, and from then on whenever enough tokens have come since the last time and the recipe evicts
    /// while a text grows; and codes tokens that are no longer new, where the recipe has a codec. Does nothing when nothing is due. Under a recipe with `retain`
    /// nothing leaves: what is read is chosen, from now on or, where it is chosen for every token, by each of the tokens that follow.
    ///
    /// It is decided for all layers ([`TokenCache::plan_eviction`] does that alone), and then done layer by layer. A device that fails leaves each layer as it was or as it is to be;
    /// the next call goes on with the layers that are left, and tokens that have come meanwhile stay.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::LayerTokens`] while layers hold different tokens, [`Error::Score`] for observations that are missing or cannot be ranked, [`Error::Edit`], [`Error::Core`] for numbers that have no
    /// codes; nothing has changed then. [`Error::Core`] when the device fails.
    pub fn evict(&mut self, sequence: SequenceId) -> Result<EvictReport, Error> {
        self.plan_eviction(sequence)?;
        self.carry_out(sequence)
    }

    /// Decides what the next [`TokenCache::evict`] does, without doing it; true when it has something to do. Tokens may come in between: they stay.
    ///
    /// # Errors
    /// As [`TokenCache::evict`]; nothing has changed.
    pub fn plan_eviction(&mut self, sequence: SequenceId) -> Result<bool, Error> {
        let held = self.sequence(sequence)?;
        if held.pending.is_some() {
            return Ok(true);
        }
        let due = self.is_due(held);
        if !due && self.planner.recipe().codec.is_none() {
            return Ok(false);
        }
        held.check_layers()?;
        let mut state = held.state.clone();
        if due {
            self.sync_tables(sequence)?;
        }
        let held = self.sequence(sequence)?;
        let decisions = if due { self.plans(held, &mut state)? } else { Decisions::default() };
        self.set_pending(sequence, state, decisions)?;
        Ok(self.sequence(sequence)?.pending.is_some())
    }

    /// Writes what the page tables lack of a sequence's lists, so that its rows are told from there. Nothing that anybody reads has changed.
    fn sync_tables(&mut self, sequence: SequenceId) -> Result<(), Error> {
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        for (layer, pools) in held.layers.iter_mut().zip(&mut self.layers) {
            let mut lists: Vec<&mut HeadPages> = layer.heads.iter_mut().collect();
            pools.regions.sync(&self.engine, &mut lists)?;
        }
        Ok(())
    }

    /// Keeps plans of all layers, and the codes that follow, to be carried out; none where nothing is to be done.
    pub(super) fn set_pending(
        &mut self,
        sequence: SequenceId,
        state: SequenceState,
        Decisions { mut plans, chosen: on_device }: Decisions<E::Tensor>,
    ) -> Result<(), Error> {
        let held_before = self.bytes().held();
        if plans.iter().any(|p| p.positions.is_some()) {
            self.rope()?;
        }
        let chosen = !plans.is_empty();
        let retain = self.planner.recipe().retain && chosen;
        let left = |plan: &TokenPlan| if retain { 0 } else { plan.total - plan.keep.total() };
        let mut report = EvictReport { evicted: plans.iter().map(left).sum(), ..EvictReport::default() };
        let (coded, distortion) = self.code(sequence, &mut plans)?;
        report.distortion = distortion;
        let held = self.sequence(sequence)?;
        let nothing = coded.iter().flat_map(|layer| &layer.heads).all(|c| c.new == 0 && c.gone == 0);
        if !chosen && nothing && held.decoding {
            return Ok(());
        }
        // Codes leave others in the pages than were chosen.
        let on_device = if coded.is_empty() { on_device } else { Vec::new() };
        let mut on_device = on_device.into_iter();
        let (frames, codings): (Vec<_>, Vec<_>) = coded.into_iter().map(|c| (c.frames, c.heads)).unzip();
        let mut codings = codings.into_iter();
        let of_layer = |(plan, held): (TokenPlan, &SequenceLayer<E::Tensor>)| PendingLayer {
            plan,
            chosen: on_device.next().flatten(),
            lengths: held.heads.iter().map(HeadPages::len).collect(),
            codings: codings.next().unwrap_or_default(),
        };
        let layers = plans.into_iter().zip(&held.layers).map(of_layer).collect();
        let seen = held.layers[0].seen;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        held.pending = Some(Pending { state, layers, frames, seen, report, held_before });
        Ok(())
    }

    /// Does what is pending, layer by layer.
    pub(super) fn carry_out(&mut self, sequence: SequenceId) -> Result<EvictReport, Error> {
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        let Some(mut pending) = held.pending.take() else {
            if !held.decoding && held.layers[0].seen > 0 {
                (held.decoding, held.evicted_at) = (true, held.layers[0].seen);
            }
            held.layers.iter_mut().for_each(|l| l.probes = None);
            let kept = held.layers.iter().flat_map(|l| &l.heads).map(HeadPages::held).sum();
            return Ok(EvictReport { kept, resident_bytes: self.bytes().held(), ..EvictReport::default() });
        };
        let retain = self.planner.recipe().retain;
        let size = self.geometry.block_size;
        let arranged = pending.layers.iter().map(|next| {
            let layer = next.plan.layer;
            (next, &held.layers[layer].heads[..], &self.layers[layer].pool)
        });
        let arranged = if retain { Vec::new() } else { arranged_together(arranged, size) };
        let mut arranged = arranged.into_iter();
        while let Some(next) = pending.layers.front() {
            let (layer, report) = (next.plan.layer, &mut pending.report);
            let done = if retain && next.codings.is_empty() {
                self.read_only(sequence, next).map(|()| None)
            } else {
                {
                    let frames = pending.frames.get(layer).cloned().flatten();
                    self.apply(sequence, next, (arranged.next().flatten(), frames), report)
                }
            };
            match done {
                Ok(shrunk) => {
                    pending.layers.pop_front();
                    self.give_back(layer, shrunk);
                }
                Err(e) => {
                    let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
                    held.pending = Some(pending);
                    return Err(e);
                }
            }
        }
        let Pending { state, seen, mut report, held_before, .. } = pending;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        if !held.decoding || report.evicted > 0 || retain {
            held.evicted_at = seen;
        }
        (held.state, held.decoding, held.settled) = (state, true, held.layers[0].seen);
        held.layers.iter_mut().for_each(|l| l.probes = None);
        report.kept = held.layers.iter().flat_map(|l| &l.heads).map(HeadPages::held).sum();
        report.resident_bytes = self.bytes().held();
        report.freed_bytes = held_before.saturating_sub(report.resident_bytes);
        Ok(report)
    }

    /// Carries out what is pending for a layer. Returns the pages that there are after it, where it is known already that they are fewer.
    fn apply(
        &mut self,
        sequence: SequenceId,
        next: &PendingLayer<E::Tensor>,
        (arranged, frames): (Option<Arranged>, SharedFrames<E::Tensor>),
        report: &mut EvictReport,
    ) -> Result<Option<Shrunk>, Error> {
        let layer = next.plan.layer;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        // Out of the cache for as long as it is worked on: lists of a long text are not copied.
        let mut lists = std::mem::take(&mut held.layers[layer]);
        let done = self.apply_to(sequence, &mut lists, (next, arranged), report);
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        held.layers[layer] = lists;
        let shrunk = done?;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        if next.codings.is_empty() {
            return Ok(shrunk);
        }
        let held = &mut held.layers[layer];
        for (head, coding) in held.heads.iter_mut().zip(&next.codings) {
            (report.coded, report.evicted) = (report.coded + coding.new, report.evicted + coding.gone);
            head.coded = coding.coded.clone();
        }
        self.stamps += 1;
        (held.frames, held.coded_at) = (frames, self.stamps);
        Ok(shrunk)
    }

    fn apply_to(
        &mut self,
        sequence: SequenceId,
        held: &mut SequenceLayer<E::Tensor>,
        (next, arranged): (&PendingLayer<E::Tensor>, Option<Arranged>),
        report: &mut EvictReport,
    ) -> Result<Option<Shrunk>, Error> {
        let layer = next.plan.layer;
        let plan = next.with_later_tokens(&held.heads);
        if plan.is_nothing() {
            return Ok(None);
        }
        let mut shrunk = None;
        let sharer = (sequence, held.stamp);
        if let Some(known) = self.made_before((&held.heads, sharer), &plan)? {
            report.merged += known.merged;
            let given_up: Vec<u32> = held.heads.iter().flat_map(|h| h.blocks.clone()).collect();
            held.replace_heads(known.heads);
            (held.beside, held.stamp) = (known.beside, known.stamp);
            let pool = &mut self.layers[layer].pool;
            given_up.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
        } else {
            let sharers = self.sharers(&held.heads, sequence, layer);
            let (done, freed) = match arranged {
                Some(arranged) => self.compact_arranged((next, &held.heads), &held.beside, arranged)?,
                None => (self.compact(&held.heads, &held.beside, &plan)?, None),
            };
            self.stamps += 1;
            self.remember(&held.heads, &plan, (sequence, self.stamps), (sharers, done.merged));
            report.merged += done.merged;
            held.replace_heads(done.heads);
            (held.beside, held.stamp) = (done.beside, self.stamps);
            let pool = &mut self.layers[layer].pool;
            match freed {
                Some(freed) => (*pool, shrunk) = (freed.pool, freed.shrunk),
                None => done.given_up.into_iter().try_for_each(|page| pool.release(page).map(drop))?,
            }
        }
        Ok(shrunk)
    }

    /// Codes of tokens that are no longer new, of each layer's heads, and plans that leave them out of the pages; and
    /// what an allocation foresees. Nothing that a sequence has is changed yet, and there is nothing where nothing is
    /// to be coded.
    fn code(
        &mut self,
        sequence: SequenceId,
        plans: &mut Vec<TokenPlan>,
    ) -> Result<Codings<E::Tensor>, Error> {
        let Some(part) = self.planner.recipe().codec else { return Ok((Vec::new(), 0.0)) };
        let held = self.sequence(sequence)?;
        // Numbers of the tokens that leave, `[layer][head]`.
        let mut leaving = Vec::with_capacity(held.layers.len());
        for (layer, of_layer) in held.layers.iter().enumerate() {
            if plans.len() == layer {
                let lengths: Vec<usize> = of_layer.heads.iter().map(HeadPages::len).collect();
                plans.push(TokenPlan::nothing(layer, &lengths));
            }
            let plan = &mut plans[layer];
            let (mut of_heads, mut stays) = (Vec::new(), Vec::new());
            for set in plan.keep.sets() {
                let places = part.sink.min(set.len())..(part.sink + part.leaving(set.len())).min(set.len());
                of_heads.push(set[places.clone()].to_vec());
                stays.push([&set[..places.start], &set[places.end..]].concat());
            }
            plan.keep = KeptIndices::new(stays);
            leaving.push(of_heads);
        }
        let before: Vec<Vec<usize>> = self.codes.iter().map(LayerCodes::capacities).collect();
        let coded = match &part.retention {
            Some(retention) => self.allocated(sequence, plans, &leaving, (&part, retention)),
            None => self.coded(sequence, &leaving, &part).map(|coded| (coded, 0.0)),
        };
        if coded.is_err() {
            self.codes.iter_mut().zip(&before).for_each(|(codes, before)| codes.cut(&self.engine, before));
        }
        coded
    }

    /// Codes of the tokens that leave, beside those that there are.
    fn coded(
        &mut self,
        sequence: SequenceId,
        leaving: &[Vec<Vec<u32>>],
        part: &CodecPart,
    ) -> Result<Vec<LayerCoding<E::Tensor>>, Error> {
        let Self { engine, geometry, layers: pools, codes, sequences, .. } = self;
        let held = sequences.get(&sequence).ok_or(unknown(sequence))?;
        let mut made = Vec::with_capacity(leaving.len());
        for (layer, leaving) in leaving.iter().enumerate() {
            let of_layer = &held.layers[layer];
            let mut coder = Coder { engine, geometry, part, pools: &pools[layer], codes: &mut codes[layer] };
            let (coded, frames) = coder.add(&of_layer.heads, &of_layer.frames, leaving)?;
            let coding =
                |(coded, leaving): (CodedHead, &Vec<u32>)| Coding { coded, new: leaving.len(), gone: 0 };
            made.push(LayerCoding { heads: coded.into_iter().zip(leaving).map(coding).collect(), frames });
        }
        Ok(made)
    }

    /// True when [`TokenCache::evict`] would choose now, and so ask for what the recipe needs.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn evict_is_due(&self, sequence: SequenceId) -> Result<bool, Error> {
        let held = self.sequence(sequence)?;
        Ok(held.pending.is_none() && self.is_due(held))
    }

    fn is_due(&self, held: &Sequence<E::Tensor>) -> bool {
        let recipe = self.planner.recipe();
        let seen = held.layers[0].seen;
        match recipe.decode {
            _ if !self.planner.evicts() || seen == 0 || chooses_for_each(recipe) => false,
            _ if !held.decoding => true,
            Some(part) => seen - held.evicted_at >= part.every,
            None => false,
        }
    }

    /// Keys or values of the tokens of `heads`, head after head.
    pub(super) fn rows_of(
        &self,
        layer: usize,
        side: Side,
        heads: &[HeadPages],
    ) -> Result<Vec<f32>, CoreError> {
        let size = self.geometry.block_size;
        self.rows(layer, side, heads.iter().flat_map(|h| (0..h.len()).map(|t| h.row(t, size))).collect())
    }

    /// Keys or values of some of a head's tokens.
    pub(super) fn tokens_of(
        &self,
        layer: usize,
        side: Side,
        head: &HeadPages,
        tokens: &[u32],
    ) -> Result<Vec<f32>, CoreError> {
        let size = self.geometry.block_size;
        self.rows(layer, side, tokens.iter().map(|&t| head.row(t as usize, size)).collect())
    }

    /// Rows of a layer's pool.
    pub(super) fn rows(&self, layer: usize, side: Side, rows: Vec<u32>) -> Result<Vec<f32>, CoreError> {
        let rows = self.engine.upload_indices(&[rows.len()], &rows)?;
        let pools = &self.layers[layer];
        let pool = match side {
            Side::Keys => &pools.k,
            Side::Values => &pools.v,
        };
        let read = self.engine.read_rows(pool, &rows)?;
        Ok(self.engine.read(&[&read])?.wait()?[0].to_f32_vec())
    }
}
