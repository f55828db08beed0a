//! Block attention that was cut by its keys, put together.

use cubecl::prelude::*;

use super::work::{item, query_row, write_if};
use crate::kernels::decode::merge_parts;

/// Merges the parts of the rows of each item that `split` names: one item of each of the tasks that were cut. Cube x is the row, cube y the task.
#[cube(launch_unchecked)]
pub(crate) fn combine_blocks<O: Float>(
    part_out: &Array<f32>,
    part_lse: &Array<f32>,
    items: &Array<u32>,
    split: &Array<u32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    group: u32,
    query_heads: u32,
    #[comptime] dim: u32,
    #[comptime] threads: u32,
    #[comptime] with_lse: bool,
) {
    let mut sums = SharedMemory::<f32>::new(comptime!(dim as usize));
    let item = item(items, split[CUBE_POS_Y as usize]);
    let row = item.first_row + CUBE_POS_X;
    let there = row < item.rows;
    let first = item.place + CUBE_POS_X * item.parts;
    let merged = merge_parts(part_out, part_lse, &mut sums, first, there, item.parts, dim, threads);
    if there {
        let to = query_row(&item, row, group, query_heads);
        let mut channel = UNIT_POS_X;
        while channel < dim {
            out[(to * dim + channel) as usize] = O::cast_from(sums[channel as usize]);
            channel += threads;
        }
        if comptime!(with_lse) {
            write_if(UNIT_POS_X == 0u32, lse, to, merged.log_sum);
        }
    }
}
