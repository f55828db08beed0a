//! A plan carried out on the lists of one layer: prepared first, then done in one write, so that a layer is as before or as after.

use tether_core::{ChosenTokens, CoreError, HostTensor, PageLists, TokenEngine};
use tether_edit::tokens::Merge;
use tether_score::tokens::Protected;

use super::arrange::{Arranged, Changes, Freed, Rows, Slots};
use super::head_pages::HeadPages;
use super::layer_pools::PoolRows;
use super::merging::Merged;
use super::pending::{Chosen, PendingLayer};
use super::{BesidePages, TokenCache};
use crate::Error;
use crate::tokens::TokenPlan;

/// Lists as a plan leaves them, and what nobody refers to any more once they take the place of the old ones.
#[derive(Debug)]
pub(super) struct Compacted<T> {
    pub heads: Vec<HeadPages>,
    pub beside: BesidePages<T>,
    pub given_up: Vec<u32>,
    /// Tokens that others became part of, or all that may have where the device finds out which.
    pub merged: usize,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Carries a plan out on lists of a layer, which the caller holds and, when this succeeds, replaces; pages that others read are copied. Nothing
    /// has changed when it fails: what is written are rows of tokens that leave, and of pages of its own.
    pub(super) fn compact(
        &mut self,
        heads: &[HeadPages],
        beside: &BesidePages<E::Tensor>,
        plan: &TokenPlan,
    ) -> Result<Compacted<E::Tensor>, Error> {
        let size = self.geometry.block_size;
        let made: Vec<HeadPages> = heads.iter().map(HeadPages::emptied).collect();
        let merges = self.merges(heads, plan)?;
        let joins: Vec<bool> = (0..heads.len()).map(|head| self.joins(plan, head).is_some()).collect();
        // Out of the pools, which are as they were: a merge does not see another one's result.
        let mut joined = Vec::new();
        for (number, head) in heads.iter().enumerate() {
            if let Some(by) = self.joins(plan, number) {
                joined.push(self.joined((number, head), plan, by)?);
            }
        }
        let moves = self.moves(heads, beside.originals.as_ref(), plan)?;
        let stand_ins = self.stand_ins(heads, beside.stand_ins.as_ref(), plan)?;
        let moved = moves.as_ref().map(|m| &m.heads[..]);
        let changes = Changes { moves: moved, merges: &merges, joins: &joins };
        let slots = Slots::new(heads, plan, &changes, size);
        let needed = slots.shared(heads, &self.layers[plan.layer].pool);
        self.layers[plan.layer].reserve(&self.engine, needed)?;
        let pool = &mut self.layers[plan.layer].pool;
        let taken = pool.allocate(needed)?;
        let (mut made, given_up) = slots.lists((heads, made), plan, (pool, &taken), size);
        let rows = slots.rows((heads, &made), plan, &changes, size);
        let rotated = moves.as_ref().and_then(|m| m.rotated.as_ref());
        if let Err(e) = self.write_compacted((heads, plan.layer), &rows, rotated, (&merges, &joined)) {
            let pool = &mut self.layers[plan.layer].pool;
            taken.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
            return Err(e);
        }
        let mut originals = beside.originals.clone();
        if let Some(moves) = moves {
            originals = moves.originals;
            for (head, moves) in made.iter_mut().zip(moves.heads) {
                (head.positions, head.originals) = (moves.positions.into(), moves.originals);
            }
        }
        let merged = rows.merged.len() + rows.joined.iter().map(Vec::len).sum::<usize>();
        Ok(Compacted { heads: made, beside: BesidePages { originals, stand_ins }, given_up, merged })
    }

    /// [`TokenCache::compact`] of `heads` that were arranged before; and what the pages are then, where that was worked out too.
    pub(super) fn compact_arranged(
        &mut self,
        (next, heads): (&PendingLayer<E::Tensor>, &[HeadPages]),
        beside: &BesidePages<E::Tensor>,
        arranged: Arranged,
    ) -> Result<(Compacted<E::Tensor>, Option<Freed>), Error> {
        let Arranged { heads: made, rows, given_up, freed } = arranged;
        match (rows, &next.chosen) {
            (Some(rows), _) => self.write_compacted((heads, next.plan.layer), &rows, None, (&[], &[]))?,
            (None, Some(chosen)) => self.write_chosen(next.plan.layer, heads, chosen)?,
            (None, None) => {}
        }
        let done = Compacted { heads: made, beside: beside.clone(), given_up, merged: 0 };
        Ok((done, freed))
    }

    /// Moves the tokens that the device chose to the front of lists that are in order, by what the page table there says.
    fn write_chosen(
        &mut self,
        layer: usize,
        heads: &[HeadPages],
        chosen: &Chosen<E::Tensor>,
    ) -> Result<(), CoreError> {
        let (engine, tokens) = (&self.engine, heads[0].len());
        let pools = &mut self.layers[layer];
        let starts: Vec<u32> = heads.iter().map(|head| head.region.start()).collect();
        let lists = |tokens: usize| {
            let lengths = vec![tokens as u32; starts.len()];
            let (page_size, groups) = (self.geometry.block_size, starts.len());
            let lists = PageLists { page_size, groups, starts: &starts, lengths: &lengths };
            engine.page_lists(pools.regions.table(), &lists)
        };
        let Protected { sink, recent } = chosen.ends;
        let numbers = engine.indices(&chosen.words, tokens - sink - recent)?;
        let asked = ChosenTokens { first: sink, chosen: &numbers, last: recent };
        let from = engine.chosen_rows(&lists(tokens)?, &asked)?;
        let kept = engine.describe(&chosen.words).0[1] + sink + recent;
        let to = engine.list_rows(&lists(kept)?)?;
        let data = pools.read_rows(engine, &from)?;
        pools.write_rows(engine, &to, &data)
    }

    /// Reads the rows, changes those that move or merge, and writes all of them at once.
    fn write_compacted(
        &mut self,
        (heads, layer): (&[HeadPages], usize),
        rows: &Rows,
        rotated: Option<&E::Tensor>,
        (merges, joined): (&[Merge], &[E::Tensor]),
    ) -> Result<(), Error> {
        if rows.from.is_empty() {
            return Ok(());
        }
        let (engine, g) = (&self.engine, &self.geometry);
        let pools = &mut self.layers[layer];
        let from = engine.upload_indices(&[rows.from.len()], &rows.from)?;
        let mut data: PoolRows<E> = pools.read_rows(engine, &from)?;
        if let Some(keys) = rotated {
            let at = engine.upload_indices(&[rows.moved.len(), 1], &rows.moved)?;
            engine.write_rows(&mut data.k, &at, keys)?;
            if let Some(positions) = &mut data.positions {
                engine.write_rows(positions, &at, &engine.upload(&position_words(&rows.positions)?)?)?;
            }
        }
        let all = || merges.iter().zip(rows.merged.iter().copied());
        let values = Merged::of(heads, g.block_size, all())?;
        let keys = Merged::of(heads, g.block_size, all().filter(|(m, _)| m.keys))?;
        // Out of the pools, which are as they were: a merge does not see another one's result.
        for (pool, into, merged) in [(&pools.v, &mut data.v, values), (&pools.k, &mut data.k, keys)] {
            if !merged.to.is_empty() {
                let means = engine.weighted_rows(pool, &merged.lists(), g.dtype)?;
                engine.write_rows(into, &engine.upload_indices(&[merged.to.len()], &merged.to)?, &means)?;
            }
        }
        for (values, to) in joined.iter().zip(&rows.joined) {
            engine.write_rows(&mut data.v, &engine.upload_indices(&[to.len()], to)?, values)?;
        }
        Ok(pools.write_rows(engine, &engine.upload_indices(&[rows.to.len()], &rows.to)?, &data)?)
    }
}

/// Positions as a column of words.
pub(super) fn position_words(positions: &[i32]) -> Result<HostTensor, CoreError> {
    let words = positions.iter().map(|p| f32::from_bits(p.cast_unsigned())).collect();
    HostTensor::from_f32(&[positions.len(), 1], words)
}
