//! Partial results over spherical codes, merged and brought back to where values are.

use cubecl::prelude::*;

use super::combine::{COMBINE_THREADS, MOST_PARTS};
use crate::kernels::spherical::rotate_shared;

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
) {
    let mut all = SharedMemory::<f32>::new(MOST_PARTS);
    let mut sums = SharedMemory::<f32>::new(comptime!(dim_v as usize));
    let mut dots = SharedMemory::<f32>::new(COMBINE_THREADS as usize);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let there = row < rows;
    let head = row % query_heads / group;
    let mut i = UNIT_POS_X;
    while i < count && there {
        all[i as usize] = part_lse[(row * count + i) as usize];
        i += COMBINE_THREADS;
    }
    let mut dot = 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < dim_k && there {
        dot +=
            f32::cast_from(q[(row * dim_k + channel) as usize]) * k_means[(head * dim_k + channel) as usize];
        channel += COMBINE_THREADS;
    }
    dots[UNIT_POS_X as usize] = dot;
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(COMBINE_THREADS.ilog2()) {
        let distance = comptime!(COMBINE_THREADS >> (stage + 1));
        if UNIT_POS_X < distance {
            dots[UNIT_POS_X as usize] += dots[(UNIT_POS_X + distance) as usize];
        }
        sync_cube();
    }
    let mut highest = f32::new(-1e30);
    for part in 0..count {
        highest = highest.max(all[part as usize]);
    }
    let mut weights = 0.0f32;
    for part in 0..count {
        let value = all[part as usize];
        // An empty part has a finite stand-in for no weight, which must not become one.
        weights += select(value > f32::new(-1e29), (value - highest).exp(), 0.0f32);
    }
    let mut channel = UNIT_POS_X;
    while channel < dim_v {
        let mut sum = 0.0f32;
        if there {
            let first = row * count * dim_v + channel;
            for part in 0..count {
                sum += (all[part as usize] - highest).exp() * parts[(first + part * dim_v) as usize];
            }
        }
        sums[channel as usize] = select(weights > 0.0f32, sum / weights, 0.0f32);
        channel += COMBINE_THREADS;
    }
    rotate_shared(&mut sums, v_channels, 1u32, dim_v, COMBINE_THREADS, true);
    if there {
        let mut channel = UNIT_POS_X;
        while channel < dim_v {
            let mean = v_means[(head * dim_v + channel) as usize];
            let value = sums[channel as usize] + mean;
            out[(row * dim_v + channel) as usize] = F::cast_from(select(weights > 0.0f32, value, 0.0f32));
            channel += COMBINE_THREADS;
        }
        if UNIT_POS_X == 0u32 {
            let value = highest + weights.ln() + dots[0] * scale;
            lse[row as usize] = select(weights > 0.0f32, value, f32::new(-1e30));
        }
    }
}
