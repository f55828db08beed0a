//! A plan carried out on the lists of one layer: prepared first, then done in one write, so that a layer is as before or as after.

use tether_core::{CoreError, HostTensor, Side, TensorData, TokenEngine};
use tether_edit::tokens::{Merge, TokenEdit, apply_merges};

use super::TokenCache;
use super::head_pages::HeadPages;
use super::layer_pools::PoolRows;
use crate::Error;
use crate::tokens::TokenPlan;

/// Lists as a plan leaves them, and what nobody refers to any more once they take the place of the old ones.
#[derive(Debug)]
pub(super) struct Compacted<T> {
    pub heads: Vec<HeadPages>,
    pub originals: Option<T>,
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

/// Merged keys and values, in the order of a plan's merges.
#[derive(Debug, Default)]
struct Merged {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Carries a plan out on lists of a layer, which the caller holds and, when this succeeds, replaces; pages that others read are copied. Nothing
    /// has changed when it fails: what is written are rows of tokens that leave, and of pages of its own.
    pub(super) fn compact(
        &mut self,
        heads: &[HeadPages],
        originals: Option<&E::Tensor>,
        plan: &TokenPlan,
    ) -> Result<Compacted<E::Tensor>, Error> {
        let size = self.geometry.block_size;
        let mut made: Vec<HeadPages> = heads.iter().map(HeadPages::emptied).collect();
        let mut merges: Vec<&Merge> = Vec::new();
        for edit in &plan.edits {
            match edit {
                TokenEdit::Merge(merge) => merges.push(merge),
                TokenEdit::Compensate(token) => match &mut made[token.head].compensation {
                    Some(own) => own.absorb(token)?,
                    none => *none = Some(token.clone()),
                },
            }
        }
        // Into what stays, head after head.
        merges.retain(|m| plan.keep.head(m.head).binary_search(&m.into).is_ok());
        merges.sort_by_key(|m| m.head);
        let moves = self.moves(heads, originals, plan)?;
        let merged = self.merged_rows(plan.layer, heads, &merges)?;
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
        if let Err(e) = self.write_compacted(plan.layer, &rows, rotated, (&merges, merged)) {
            let pool = &mut self.layers[plan.layer].pool;
            taken.into_iter().try_for_each(|page| pool.release(page).map(drop))?;
            return Err(e.into());
        }
        let mut originals = originals.cloned();
        if let Some(moves) = moves {
            originals = moves.originals;
            for (head, moves) in made.iter_mut().zip(moves.heads) {
                (head.positions, head.originals) = (moves.positions, moves.originals);
            }
        }
        Ok(Compacted { heads: made, originals, given_up })
    }

    /// Reads the rows, changes those that move or merge, and writes all of them at once.
    fn write_compacted(
        &mut self,
        layer: usize,
        rows: &Rows,
        rotated: Option<&E::Tensor>,
        (merges, merged): (&[&Merge], Merged),
    ) -> Result<(), CoreError> {
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
        if !rows.merged.is_empty() {
            let at = engine.upload_indices(&[rows.merged.len()], &rows.merged)?;
            let with_keys: Vec<u32> =
                rows.merged.iter().zip(merges).filter(|(_, m)| m.keys).map(|(&at, _)| at).collect();
            let upload = |count: usize, dim: usize, numbers: &[f32]| {
                engine.upload(&HostTensor::new(&[count, dim], TensorData::narrowed(g.dtype, numbers))?)
            };
            let values = upload(rows.merged.len(), g.head_dim_v, &merged.values)?;
            engine.write_rows(&mut data.v, &at, &values)?;
            if !with_keys.is_empty() {
                let keys = upload(with_keys.len(), g.head_dim_k, &merged.keys)?;
                let at = engine.upload_indices(&[with_keys.len()], &with_keys)?;
                engine.write_rows(&mut data.k, &at, &keys)?;
            }
        }
        pools.write_rows(engine, &rows.to, &data)
    }

    /// What the kept tokens of merges become.
    fn merged_rows(&self, layer: usize, heads: &[HeadPages], merges: &[&Merge]) -> Result<Merged, Error> {
        let (g, mut merged) = (&self.geometry, Merged::default());
        for (number, head) in heads.iter().enumerate() {
            let own: Vec<Merge> = merges
                .iter()
                .filter(|m| m.head == number)
                .map(|m| Merge { head: 0, ..(*m).clone() })
                .collect();
            if own.is_empty() {
                continue;
            }
            let read = |side| self.rows_of(layer, side, std::slice::from_ref(head));
            let (mut k, mut v) = (read(Side::Keys)?, read(Side::Values)?);
            apply_merges(&mut k, &mut v, head.len(), (g.head_dim_k, g.head_dim_v), &own)?;
            for merge in &own {
                let row = |data: &[f32], dim: usize| data[merge.into as usize * dim..][..dim].to_vec();
                merged.values.extend(row(&v, g.head_dim_v));
                if merge.keys {
                    merged.keys.extend(row(&k, g.head_dim_k));
                }
            }
        }
        Ok(merged)
    }
}

/// Positions as a column of words.
pub(super) fn position_words(positions: &[i32]) -> Result<HostTensor, CoreError> {
    let words = positions.iter().map(|p| f32::from_bits(p.cast_unsigned())).collect();
    HostTensor::from_f32(&[positions.len(), 1], words)
}
