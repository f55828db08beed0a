//! A plan carried out on the lists of one layer: prepared first, then done in one write, so that a layer is as before or as after.

use tether_core::{CoreError, HostTensor, RowLists, TokenEngine};
use tether_edit::EditError;
use tether_edit::tokens::{Merge, TokenEdit};

use super::head_pages::HeadPages;
use super::layer_pools::PoolRows;
use super::{BesidePages, TokenCache};
use crate::Error;
use crate::tokens::TokenPlan;

/// Lists as a plan leaves them, and what nobody refers to any more once they take the place of the old ones.
#[derive(Debug)]
pub(super) struct Compacted<T> {
    pub heads: Vec<HeadPages>,
    pub beside: BesidePages<T>,
    pub given_up: Vec<u32>,
}

/// Rows that are written: where from, where to, and which of them are tokens that move.
#[derive(Debug, Default)]
struct Rows {
    from: Vec<u32>,
    to: Vec<u32>,
    /// For each token that moves, head after head, its number among the rows.
    moved: Vec<u32>,
    /// Where those tokens stand then.
    positions: Vec<i32>,
    /// For each merge, the number of its token among the rows.
    merged: Vec<u32>,
}

/// Rows that are merged into others.
#[derive(Debug)]
struct Merged {
    /// For each merge, the number of its token among the rows.
    to: Vec<u32>,
    /// Where the rows of each merge begin.
    starts: Vec<u32>,
    /// Rows of the pool, the one that stays first.
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Merged {
    /// Merges of tokens of `heads`, with their numbers among the rows.
    fn of<'m>(
        heads: &[HeadPages],
        block_size: usize,
        merges: impl Iterator<Item = (&'m Merge, u32)>,
    ) -> Result<Self, EditError> {
        let mut all = Self { to: Vec::new(), starts: vec![0], rows: Vec::new(), weights: Vec::new() };
        for (merge, to) in merges {
            let (head, list) = (merge.head, &heads[merge.head]);
            for &(token, weight) in std::iter::once(&(merge.into, 1.0)).chain(&merge.from) {
                if token as usize >= list.len() {
                    return Err(EditError::NoSuchToken { head, token, tokens: list.len() });
                }
                all.rows.push(list.row(token as usize, block_size));
                all.weights.push(weight);
            }
            all.to.push(to);
            all.starts.push(all.rows.len() as u32);
        }
        Ok(all)
    }

    fn lists(&self) -> RowLists<'_> {
        RowLists { starts: &self.starts, rows: &self.rows, weights: &self.weights }
    }
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
        let mut made: Vec<HeadPages> = heads.iter().map(HeadPages::emptied).collect();
        let mut merges: Vec<&Merge> = plan.edits.iter().filter_map(merge_of).collect();
        // Into what stays, head after head.
        merges.retain(|m| m.head < heads.len() && plan.keep.head(m.head).binary_search(&m.into).is_ok());
        merges.sort_by_key(|m| m.head);
        let moves = self.moves(heads, beside.originals.as_ref(), plan)?;
        let stand_ins = self.stand_ins(heads, beside.stand_ins.as_ref(), plan)?;
        let pool = &self.layers[plan.layer].pool;
        let mut needed = 0;
        // Which slots tokens will have, which of them change, and which pages are written for it.
        let mut laid = Vec::with_capacity(heads.len());
        for (number, (head, set)) in heads.iter().zip(plan.keep.sets()).enumerate() {
            let moved = moves.as_ref().map_or(&[][..], |m| &m.heads[number].moved);
            let place = |merge: &&Merge| set.binary_search(&merge.into).ok();
            let merged = merges.iter().filter(|m| m.head == number).filter_map(place).collect::<Vec<_>>();
            let order = head.slots_without_gaps(set);
            let written = head.written(set, &order, &[moved, &merged].concat(), size);
            needed += written.iter().filter(|&&b| pool.references(head.blocks[b]) > 1).count();
            laid.push((order, written, merged));
        }
        self.layers[plan.layer].reserve(&self.engine, needed)?;
        let pools = &mut self.layers[plan.layer];
        let taken = pools.pool.allocate(needed)?;
        let mut fresh = taken.iter().copied();
        let (mut given_up, mut rows) = (Vec::new(), Rows::default());
        for (number, ((head, old), (order, written, merged))) in
            made.iter_mut().zip(heads).zip(laid).enumerate()
        {
            let set = plan.keep.head(number);
            head.blocks.truncate(set.len().div_ceil(size));
            for page in written {
                // Others read this page: what stays of it goes to one of our own.
                let page = &mut head.blocks[page];
                if pools.pool.references(*page) > 1
                    && let Some(own) = fresh.next()
                {
                    *page = own;
                }
            }
            head.set_order(order);
            let kept = head.blocks.iter().map(Some).chain(std::iter::repeat(None));
            given_up.extend(old.blocks.iter().zip(kept).filter(|(a, b)| Some(*a) != *b).map(|(a, _)| *a));
            let of_head = moves.as_ref().map(|m| &m.heads[number]);
            let moved = of_head.map_or(&[][..], |m| &m.moved);
            let new_positions = of_head.map_or(&[][..], |m| &m.positions);
            let mut merged_at = Vec::new();
            for (place, &token) in set.iter().enumerate() {
                let (source, target) = (old.row(token as usize, size), head.row(place, size));
                let (moves, merges) = (moved.binary_search(&place).is_ok(), merged.contains(&place));
                if source == target && !moves && !merges {
                    continue;
                }
                let at = rows.from.len() as u32;
                if moves {
                    rows.moved.push(at);
                    rows.positions.push(new_positions[place]);
                }
                if merges {
                    merged_at.push((place, at));
                }
                rows.from.push(source);
                rows.to.push(target);
            }
            // In the order of the head's merges.
            let at = |place: &usize| merged_at.iter().find(|(p, _)| p == place).map_or(0, |(_, at)| *at);
            rows.merged.extend(merged.iter().map(at));
            head.positions = set.iter().map(|&t| old.positions[t as usize]).collect();
            if !old.grid.is_empty() {
                head.grid = set.iter().map(|&t| old.grid[t as usize]).collect();
            }
        }
        let rotated = moves.as_ref().and_then(|m| m.rotated.as_ref());
        if let Err(e) = self.write_compacted((heads, plan.layer), &rows, rotated, &merges) {
            let pool = &mut self.layers[plan.layer].pool;
            taken.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
            return Err(e);
        }
        let mut originals = beside.originals.clone();
        if let Some(moves) = moves {
            originals = moves.originals;
            for (head, moves) in made.iter_mut().zip(moves.heads) {
                (head.positions, head.originals) = (moves.positions, moves.originals);
            }
        }
        Ok(Compacted { heads: made, beside: BesidePages { originals, stand_ins }, given_up })
    }

    /// Reads the rows, changes those that move or merge, and writes all of them at once.
    fn write_compacted(
        &mut self,
        (heads, layer): (&[HeadPages], usize),
        rows: &Rows,
        rotated: Option<&E::Tensor>,
        merges: &[&Merge],
    ) -> Result<(), Error> {
        if rows.from.is_empty() {
            return Ok(());
        }
        let (engine, g) = (&self.engine, &self.geometry);
        let pools = &mut self.layers[layer];
        let mut data: PoolRows<E> = pools.read_rows(engine, &rows.from)?;
        if let Some(keys) = rotated {
            let at = engine.upload_indices(&[rows.moved.len(), 1], &rows.moved)?;
            engine.write_rows(&mut data.k, &at, keys)?;
            if let Some(positions) = &mut data.positions {
                engine.write_rows(positions, &at, &engine.upload(&position_words(&rows.positions)?)?)?;
            }
        }
        let all = || merges.iter().copied().zip(rows.merged.iter().copied());
        let values = Merged::of(heads, g.block_size, all())?;
        let keys = Merged::of(heads, g.block_size, all().filter(|(m, _)| m.keys))?;
        // Out of the pools, which are as they were: a merge does not see another one's result.
        for (pool, into, merged) in [(&pools.v, &mut data.v, values), (&pools.k, &mut data.k, keys)] {
            if !merged.to.is_empty() {
                let means = engine.weighted_rows(pool, &merged.lists(), g.dtype)?;
                engine.write_rows(into, &engine.upload_indices(&[merged.to.len()], &merged.to)?, &means)?;
            }
        }
        Ok(pools.write_rows(engine, &rows.to, &data)?)
    }
}

fn merge_of(edit: &TokenEdit) -> Option<&Merge> {
    match edit {
        TokenEdit::Merge(merge) => Some(merge),
        TokenEdit::Compensate { .. } => None,
    }
}

/// Positions as a column of words.
pub(super) fn position_words(positions: &[i32]) -> Result<HostTensor, CoreError> {
    let words = positions.iter().map(|p| f32::from_bits(p.cast_unsigned())).collect();
    HostTensor::from_f32(&[positions.len(), 1], words)
}
