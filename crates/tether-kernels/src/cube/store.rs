//! One layer's keys, values and moments on the device.

use cubecl::server::Handle;
use tether_core::{Side, StoreSpec};

/// K and V `[slots, tokens_per_unit, kv_heads, head_dim]` and their moments `[slots, 2, kv_heads * head_dim]`.
#[derive(Debug)]
pub struct CubeStore {
    pub(super) spec: StoreSpec,
    pub(super) keys: SideBuffers,
    pub(super) values: SideBuffers,
}

/// Buffers of keys or of values.
#[derive(Clone, Debug)]
pub(super) struct SideBuffers {
    pub(super) data: Handle,
    pub(super) moments: Handle,
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

    /// Moments of all slots.
    pub(super) fn moments_len(&self, side: Side) -> usize {
        self.spec.slots * 2 * self.side(side).channels
    }
}
