//! Whole units in and out of slots.

use cubecl::prelude::*;

use super::words::Words;

/// Vectors that a thread moves: all are read before the first is written, so that many reads are under way at once.
pub(crate) const AT_ONCE: u32 = 4;

/// The unit that a cube works on: cubes y and z count units, z slowly.
#[cube]
pub(crate) fn cube_unit() -> u32 {
    CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y
}

/// Block number `block` of `len` vectors, from `source` to `target`.
#[cube]
fn copy_block<F: Numeric, N: Size>(
    from: &Array<Vector<F, N>>,
    to: &mut Array<Vector<F, N>>,
    source: u32,
    target: u32,
    len: u32,
    block: u32,
) {
    let first = block * CUBE_DIM * AT_ONCE + UNIT_POS;
    let mut held = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    #[unroll]
    for i in 0..AT_ONCE {
        let at = first + i * CUBE_DIM;
        if at < len {
            held[i as usize] = from[(source + at) as usize];
        }
    }
    #[unroll]
    for i in 0..AT_ONCE {
        let at = first + i * CUBE_DIM;
        if at < len {
            to[(target + at) as usize] = held[i as usize];
        }
    }
}

/// Zeros. One vector a thread.
#[cube(launch_unchecked)]
pub(crate) fn fill_zero<F: Numeric, N: Size>(out: &mut Array<Vector<F, N>>, len: u32) {
    if (ABSOLUTE_POS as u32) < len {
        out[ABSOLUTE_POS] = Vector::new(F::from_int(0));
    }
}

/// The first `len` vectors of `data`, for a store that grows.
#[cube(launch_unchecked)]
pub(crate) fn copy_prefix<F: Numeric, N: Size>(
    data: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    len: u32,
) {
    copy_block(data, out, 0, 0, len, CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X);
}

/// Keys and values of unit `u` to slot `rows[u] / 2`. A unit has `unit_k` and `unit_v` vectors; the first `blocks_k` cubes of x copy keys,
/// the others values.
#[cube(launch_unchecked)]
pub(crate) fn write_units<F: Numeric, N: Size>(
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    keys: &mut Array<Vector<F, N>>,
    values: &mut Array<Vector<F, N>>,
    rows: &Words,
    units: u32,
    unit_k: u32,
    unit_v: u32,
    blocks_k: u32,
) {
    let unit = cube_unit();
    if unit < units {
        let slot = rows.get(unit) / 2;
        if CUBE_POS_X < blocks_k {
            copy_block(k, keys, unit * unit_k, slot * unit_k, unit_k, CUBE_POS_X);
        } else {
            copy_block(v, values, unit * unit_v, slot * unit_v, unit_v, CUBE_POS_X - blocks_k);
        }
    }
}

/// Slot `slots[u]` of `store` to unit `u` of `out`. A unit has `unit_len` vectors.
#[cube(launch_unchecked)]
pub(crate) fn gather_units<F: Numeric, N: Size>(
    store: &Array<Vector<F, N>>,
    out: &mut Array<Vector<F, N>>,
    slots: &Words,
    units: u32,
    unit_len: u32,
) {
    let unit = cube_unit();
    if unit < units {
        copy_block(store, out, slots.get(unit) * unit_len, unit * unit_len, unit_len, CUBE_POS_X);
    }
}
