//! One layer's keys, values and moments on the device.

use cubecl::server::Handle;
use tether_core::{RotatedPlaces, Side, SlotId, StoreSpec};

use super::CubeRotation;

/// K and V `[slots, tokens_per_unit, kv_heads, head_dim]` and their moments.
#[derive(Debug)]
pub struct CubeStore {
    pub(super) spec: StoreSpec,
    pub(super) keys: SideBuffers,
    pub(super) values: SideBuffers,
    /// `f32` `[slots, 2, row]`, a row of mean and sum of squared deviations of the keys' channels, then of the values'. A slot has two rows: an
    /// alignment reads the one and writes the other, so that all its cubes see what was there before.
    pub(super) moments: Handle,
    /// Which row of `[slots * 2]` is each slot's.
    pub(super) rows: Vec<u32>,
    pub(super) rotated: Option<RotatedKeys>,
}

/// Keys `[capacity, tokens_per_unit, kv_heads, head_dim_k]` of the units of a window, rotated.
#[derive(Debug)]
pub(super) struct RotatedKeys {
    pub(super) rotation: CubeRotation,
    pub(super) places: RotatedPlaces,
    pub(super) keys: Handle,
    pub(super) capacity: usize,
}

/// Buffers of keys or of values.
#[derive(Clone, Debug)]
pub(super) struct SideBuffers {
    pub(super) data: Handle,
    /// `kv_heads * head_dim`.
    pub(super) channels: usize,
}

impl CubeStore {
    pub(super) fn side(&self, side: Side) -> &SideBuffers {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    pub(super) fn head_dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.spec.head_dim_k,
            Side::Values => self.spec.head_dim_v,
        }
    }

    /// Elements of one slot.
    pub(super) fn unit_len(&self, side: Side) -> usize {
        self.spec.tokens_per_unit * self.side(side).channels
    }

    /// Elements of all slots.
    pub(super) fn data_len(&self, side: Side) -> usize {
        self.spec.slots * self.unit_len(side)
    }

    /// Slots that were written hold other keys than those that were rotated.
    pub(super) fn written(&mut self, slots: &[SlotId]) {
        if let Some(rotated) = &mut self.rotated {
            rotated.places.written(slots);
        }
    }

    /// Numbers in a row of moments.
    pub(super) fn row_len(&self) -> usize {
        2 * (self.keys.channels + self.values.channels)
    }

    /// Numbers in all rows of moments.
    pub(super) fn moments_len(&self) -> usize {
        self.spec.slots * 2 * self.row_len()
    }

    /// The row of moments of a slot that exists.
    pub(super) fn row(&self, slot: SlotId) -> u32 {
        self.rows[slot.index()]
    }
}
