//! Partial results over spherical codes, merged and brought back to where values are.

use cubecl::prelude::*;

use super::combine::MOST_PARTS;
use crate::kernels::spherical::rotate_shared;

/// Threads of a cube, no fewer than [`MOST_PARTS`].
pub(crate) const THREADS: u32 = 512;

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
    let mut dots = SharedMemory::<f32>::new(THREADS as usize);
    let mut tops = SharedMemory::<f32>::new(THREADS as usize);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let there = row < rows;
    let head = row % query_heads / group;
    // A part a thread, and products of the query with the mean.
    let mut own = f32::new(-1e30);
    if UNIT_POS_X < count && there {
        own = part_lse[(row * count + UNIT_POS_X) as usize];
    }
    let mut dot = 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < dim_k && there {
        dot +=
            f32::cast_from(q[(row * dim_k + channel) as usize]) * k_means[(head * dim_k + channel) as usize];
        channel += THREADS;
    }
    dots[UNIT_POS_X as usize] = dot;
    tops[UNIT_POS_X as usize] = own;
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(THREADS.ilog2()) {
        let distance = comptime!(THREADS >> (stage + 1));
        if UNIT_POS_X < distance {
            let other = (UNIT_POS_X + distance) as usize;
            dots[UNIT_POS_X as usize] += dots[other];
            tops[UNIT_POS_X as usize] = tops[UNIT_POS_X as usize].max(tops[other]);
        }
        sync_cube();
    }
    let highest = tops[0];
    // An empty part has a finite stand-in for no weight, which must not become one.
    let weight = select(own > f32::new(-1e29), (own - highest).exp(), 0.0f32);
    if UNIT_POS_X < MOST_PARTS as u32 {
        all[UNIT_POS_X as usize] = weight;
    }
    sync_cube();
    tops[UNIT_POS_X as usize] = weight;
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(THREADS.ilog2()) {
        let distance = comptime!(THREADS >> (stage + 1));
        if UNIT_POS_X < distance {
            tops[UNIT_POS_X as usize] += tops[(UNIT_POS_X + distance) as usize];
        }
        sync_cube();
    }
    let weights = tops[0];
    // Several threads a channel, each with parts of its own.
    let slices = comptime!((THREADS / dim_v).max(1));
    let mut partial = SharedMemory::<f32>::new(comptime!((slices * dim_v) as usize));
    let mut at = UNIT_POS_X;
    while at < slices * dim_v {
        let first = row * count * dim_v + at % dim_v;
        let mut sum = 0.0f32;
        let mut part = at / dim_v;
        while part + 3 * slices < count && there {
            let mut values = Array::<f32>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                values[i] = parts[(first + (part + i as u32 * slices) * dim_v) as usize];
            }
            #[unroll]
            for i in 0..4usize {
                sum += all[(part + i as u32 * slices) as usize] * values[i];
            }
            part += 4 * slices;
        }
        while part < count && there {
            sum += all[part as usize] * parts[(first + part * dim_v) as usize];
            part += slices;
        }
        partial[at as usize] = sum;
        at += THREADS;
    }
    sync_cube();
    let mut channel = UNIT_POS_X;
    while channel < dim_v {
        let mut sum = 0.0f32;
        #[unroll]
        for slice in 0..slices {
            sum += partial[(comptime!(slice * dim_v) + channel) as usize];
        }
        sums[channel as usize] = select(weights > 0.0f32, sum / weights, 0.0f32);
        channel += THREADS;
    }
    rotate_shared(&mut sums, v_channels, 1u32, dim_v, THREADS, true);
    if there {
        let mut channel = UNIT_POS_X;
        while channel < dim_v {
            let mean = v_means[(head * dim_v + channel) as usize];
            let value = sums[channel as usize] + mean;
            out[(row * dim_v + channel) as usize] = F::cast_from(select(weights > 0.0f32, value, 0.0f32));
            channel += THREADS;
        }
        if UNIT_POS_X == 0u32 {
            let value = highest + weights.ln() + dots[0] * scale;
            lse[row as usize] = select(weights > 0.0f32, value, f32::new(-1e30));
        }
    }
}
