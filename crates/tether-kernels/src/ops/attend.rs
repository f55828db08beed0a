//! Block attention on matrix units: tasks to cubes, so that the last wave of cubes is full.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::StoreSpec;

use crate::cube::launch::{array, spread, with_storage};
use crate::kernels::attend;

/// Tiles that pass while a cube starts, finishes and is merged: what a further part costs.
const PART_COST: usize = 8;

/// Most parts of a task: what they leave behind takes memory.
const MOST_PARTS: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents<'a> {
    pub store: &'a StoreSpec,
    pub sequences: usize,
    pub query_tokens: usize,
    pub group: usize,
    /// Keys of the longest sequence.
    pub longest: usize,
}

impl Extents<'_> {
    fn rows(&self) -> usize {
        self.group * self.query_tokens
    }

    fn query_len(&self, head_dim: usize) -> usize {
        self.sequences * self.rows() * self.store.kv_heads * head_dim
    }
}

/// A buffer and its elements.
pub(crate) type Buffer<'a> = (&'a Handle, usize);

/// Where keys and values lie.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub keys: Buffer<'a>,
    pub values: Buffer<'a>,
    pub key_slots: Buffer<'a>,
    pub value_slots: Buffer<'a>,
    pub first_unit: Buffer<'a>,
}

/// How tasks become cubes: the first `whole` one each, the others `parts` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blueprint {
    whole: usize,
    rest: usize,
    parts: usize,
}

impl Blueprint {
    /// For `tasks` of `tiles` tiles of keys, where `at_once` cubes run at once.
    fn new(tasks: usize, tiles: usize, at_once: usize) -> Self {
        let rest = tasks % at_once;
        let most = (tiles / PART_COST).clamp(1, MOST_PARTS);
        let cost = |parts: usize| (rest * parts).div_ceil(at_once) * (tiles.div_ceil(parts) + PART_COST);
        match (1..=most).min_by_key(|&parts| cost(parts)) {
            Some(parts) if parts > 1 => Self { whole: tasks - rest, rest, parts },
            _ => Self { whole: tasks, rest: 0, parts: 1 },
        }
    }
}

/// Attention of prepared queries into `out`.
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    extents: &Extents<'_>,
    prepared: &Handle,
    stored: &Stored<'_>,
    out: &Handle,
) {
    let spec = extents.store;
    let (warps, row_blocks) = (attend::WARPS, attend::BLOCKS);
    let task_rows = (warps * row_blocks * 16) as usize;
    let tasks = extents.rows().div_ceil(task_rows) * spec.kv_heads * extents.sequences;
    // Registers allow one cube on a multiprocessor.
    let at_once = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
    let print = Blueprint::new(tasks, extents.longest.div_ceil(attend::TILE as usize), at_once);
    let Blueprint { whole, rest, parts } = print;
    let part_rows = rest * parts * task_rows;
    let part_sums = client.empty(part_rows.max(1) * spec.head_dim_v * size_of::<f32>());
    let part_weights = client.empty(part_rows.max(1) * 2 * size_of::<f32>());
    let (x, y) = spread(whole + rest * parts);
    let out_len = extents.query_len(spec.head_dim_v);
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel reads units of the tables, which lie in the store (checked), and writes rows below `rows` of `out` and below
    // `part_rows` of the parts.
    unsafe {
        with_storage!(spec.dtype, F => attend::attend_matrix::launch_unchecked::<F, R>(
            client,
            CubeCount::Static(x, y, 1),
            CubeDim::new_1d(warps * 32),
            4,
            8,
            array(prepared, extents.query_len(spec.head_dim_k)),
            array(stored.keys.0, stored.keys.1 / 8),
            array(stored.values.0, stored.values.1 / 8),
            array(stored.key_slots.0, stored.key_slots.1),
            array(stored.value_slots.0, stored.value_slots.1),
            array(stored.first_unit.0, stored.first_unit.1),
            array(out, out_len),
            array(&part_sums, part_rows.max(1) * spec.head_dim_v),
            array(&part_weights, part_rows.max(1) * 2),
            extents.query_tokens as u32,
            spec.kv_heads as u32,
            extents.group as u32,
            (whole + rest * parts) as u32,
            whole as u32,
            parts as u32,
            spec.tokens_per_unit as u32,
            spec.head_dim_k as u32,
            spec.head_dim_v as u32,
            warps,
            row_blocks as usize,
            attend::HELD,
        ));
        if rest > 0 {
            attend::attend_parts::launch_unchecked::<R>(
                client,
                CubeCount::Static(task_rows as u32, rest as u32, 1),
                CubeDim::new_1d(spec.head_dim_v as u32),
                array(&part_sums, part_rows * spec.head_dim_v),
                array(&part_weights, part_rows * 2),
                array(out, out_len),
                extents.query_tokens as u32,
                spec.kv_heads as u32,
                extents.group as u32,
                whole as u32,
                parts as u32,
                spec.head_dim_v as u32,
                task_rows as u32,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wave_is_full() {
        // 96 tasks of a second wave on 132 places: three waves of quarters instead of one of whole ones.
        assert_eq!(Blueprint::new(228, 1024, 132), Blueprint { whole: 132, rest: 96, parts: 4 });
        // Waves that are full, or tasks that are short, stay as they are.
        assert_eq!(Blueprint::new(264, 1024, 132), Blueprint { whole: 264, rest: 0, parts: 1 });
        assert_eq!(Blueprint::new(100, 8, 132), Blueprint { whole: 100, rest: 0, parts: 1 });
        // Few tasks share the device by their keys.
        assert_eq!(Blueprint::new(12, 1024, 132).whole, 0);
    }
}
