//! Whole units in and out of slots.

use cubecl::prelude::*;

/// Zeros.
#[cube(launch)]
pub(crate) fn fill_zero<F: Numeric>(out: &mut Array<F>) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = F::from_int(0);
    }
}

/// `out[i] = data[i]`, for a store that grows.
#[cube(launch)]
pub(crate) fn copy_prefix<F: Numeric>(data: &Array<F>, out: &mut Array<F>) {
    if ABSOLUTE_POS < data.len() {
        out[ABSOLUTE_POS] = data[ABSOLUTE_POS];
    }
}

/// Unit `u` of `units` to slot `slots[u]` of `store`.
#[cube(launch)]
pub(crate) fn write_units<F: Numeric>(
    units: &Array<F>,
    slots: &Array<u32>,
    store: &mut Array<F>,
    unit_len: u32,
) {
    if ABSOLUTE_POS < units.len() {
        let len = unit_len as usize;
        let slot = slots[ABSOLUTE_POS / len] as usize;
        store[slot * len + ABSOLUTE_POS % len] = units[ABSOLUTE_POS];
    }
}

/// Slot `slots[u]` of `store` to unit `u` of `units`.
#[cube(launch)]
pub(crate) fn gather_units<F: Numeric>(
    store: &Array<F>,
    slots: &Array<u32>,
    units: &mut Array<F>,
    unit_len: u32,
) {
    if ABSOLUTE_POS < units.len() {
        let len = unit_len as usize;
        let slot = slots[ABSOLUTE_POS / len] as usize;
        units[ABSOLUTE_POS] = store[slot * len + ABSOLUTE_POS % len];
    }
}
