//! Keys of a window, rotated, beside the store that they are in.

use std::sync::Arc;

use rayon::prelude::*;
use tether_core::{AttendTable, CoreError, RotatedPlaces, RotationPhases, Side, SlotId, StoreSpec, Traffic};

use crate::store::HostStore;

/// Keys `[places, tokens_per_unit, kv_heads, head_dim_k]` of the units of all tables, one after the other.
#[derive(Debug)]
pub(super) struct RotatedKeys {
    rotation: Arc<RotationPhases>,
    places: RotatedPlaces,
    keys: Vec<f32>,
}

impl RotatedKeys {
    /// To be called when slots were written.
    pub(super) fn written(&mut self, slot: SlotId) {
        self.places.written(&[slot]);
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(self.keys.as_slice()) as u64
    }

    /// Key head `head` of token `token` of all places.
    pub(super) fn head(&self, spec: &StoreSpec, token: usize, head: usize) -> &[f32] {
        &self.keys[(token * spec.kv_heads + head) * spec.head_dim_k..][..spec.head_dim_k]
    }
}

/// Rotates tokens, each of `heads` heads of `dim` channels as the rotation sees them: token `t` by entry `entry(t)`.
pub(super) fn rotate_tokens(
    rotation: &RotationPhases,
    tokens: &mut [f32],
    (heads, dim): (usize, usize),
    entry: impl Fn(usize) -> usize,
) {
    for (t, token) in tokens.chunks_exact_mut(heads * dim).enumerate() {
        token.chunks_exact_mut(dim).for_each(|head| rotation.rotate(entry(t), head, |x| x, |x| x));
    }
}

impl HostStore {
    /// Sees to it that all units of `tables` stand rotated, and says what that took.
    pub(super) fn rotate_window(
        &mut self,
        rotation: &Arc<RotationPhases>,
        tables: &[AttendTable<'_>],
        parallel: bool,
    ) -> Result<Traffic, CoreError> {
        let known = self.rotated.take().filter(|known| Arc::ptr_eq(&known.rotation, rotation));
        let mut rotated = known.unwrap_or_else(|| RotatedKeys {
            rotation: rotation.clone(),
            places: RotatedPlaces::default(),
            keys: Vec::new(),
        });
        let spec = self.spec;
        let unit_len = spec.tokens_per_unit * self.channels(Side::Keys);
        let places: usize = tables.iter().map(|table| table.slots.len()).sum();
        let more = (places * unit_len).saturating_sub(rotated.keys.len());
        rotated
            .keys
            .try_reserve_exact(more)
            .map_err(|_| CoreError::OutOfMemory { bytes: places * unit_len * size_of::<f32>() })?;
        rotated.keys.resize(rotated.keys.len() + more, 0.0);
        let wanted = tables.iter().flat_map(|t| t.slots.iter().copied().zip(t.positions.iter().copied()));
        let mut stale = rotated.places.stale(wanted).into_iter().peekable();
        let keys = rotated.keys.chunks_exact_mut(unit_len.max(1)).enumerate();
        let work: Vec<_> = keys
            .filter_map(|(place, keys)| Some((stale.next_if(|unit| unit.place == place)?, keys)))
            .collect();
        let units = work.len();
        let heads = spec.rotated_heads(rotation.extents());
        let rotate = |(unit, keys): (tether_core::UnitToRotate, &mut [f32])| {
            self.data(Side::Keys).widen_into(unit.slot.index() * unit_len, keys);
            let first = unit.position as usize * spec.tokens_per_unit;
            rotate_tokens(rotation, keys, heads, |token| first + token);
        };
        if parallel {
            work.into_par_iter().for_each(rotate);
        } else {
            work.into_iter().for_each(rotate);
        }
        self.rotated = Some(rotated);
        Ok(Traffic { rotated: (units * unit_len * spec.dtype.bytes()) as u64, ..Traffic::default() })
    }
}
