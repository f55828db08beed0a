//! Partial results over spherical codes, merged and brought back to where values are.

use cubecl::prelude::*;

use super::combine::merge_parts;
use crate::kernels::runs::sum_of_run;
use crate::kernels::spherical::rotate_shared;

/// Threads of a cube: as many as every device has, because rows are few and more threads shorten each one's loop.
pub(crate) const THREADS: u32 = 256;

/// As [`super::combine_parts`]; then the rotation of values is undone once, their mean is added, and the log-sum-exp gets the term that all keys of a head share.
/// One row a cube; a row is of key head `row % query_heads / group`.
#[cube(launch_unchecked)]
pub(crate) fn combine_spherical<F: Float>(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    q: &Array<F>,
    k_means: &Array<f32>,
    v_means: &Array<f32>,
    v_channels: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    scale: f32,
    rows: u32,
    count: u32,
    query_heads: u32,
    group: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] plane: u32,
) {
    let mut sums = SharedMemory::<f32>::new(comptime!(dim_v as usize));
    let mut dots = SharedMemory::<f32>::new(THREADS as usize);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let there = row < rows;
    let head = row % query_heads / group;
    let mut dot = 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < dim_k && there {
        dot +=
            f32::cast_from(q[(row * dim_k + channel) as usize]) * k_means[(head * dim_k + channel) as usize];
        channel += THREADS;
    }
    let shared = sum_of_run(dot, &mut dots, THREADS, plane);
    let merged = merge_parts(parts, part_lse, &mut sums, row * count, there, count, dim_v, THREADS);
    rotate_shared(&mut sums, v_channels, 1u32, dim_v, THREADS, true);
    if there {
        let mut channel = UNIT_POS_X;
        while channel < dim_v {
            let mean = v_means[(head * dim_v + channel) as usize];
            let value = sums[channel as usize] + mean;
            out[(row * dim_v + channel) as usize] = F::cast_from(select(merged.any, value, 0.0f32));
            channel += THREADS;
        }
        if UNIT_POS_X == 0u32 {
            lse[row as usize] = merged.log_sum + select(merged.any, shared * scale, 0.0f32);
        }
    }
}
