//! Signs and a Walsh-Hadamard transform, of rows in the registers of a few threads or in shared memory.

use cubecl::prelude::*;

use super::{CHANNELS, THREADS};

/// Numbers that threads exchange through shared memory where planes are smaller than rows: all of a cube's, of which a device surely has room for one set.
pub(super) fn exchanged(lanes: u32, plane: u32) -> usize {
    if plane >= lanes || lanes == 1 { 1 } else { (THREADS * CHANNELS) as usize }
}

/// The transform, without signs and scale, of a row of `dim` channels that `lanes` threads hold, [`CHANNELS`] each. Thread `lane` of a row has those from
/// `lane * CHANNELS` on; what lies past the row stays what it is. Threads exchange by shuffles, or through shared memory of [`exchanged`] numbers where a
/// plane has less than `lanes` threads. All threads of the cube take part.
#[cube]
pub(super) fn transform(
    x: &mut Array<f32>,
    shared: &mut SharedMemory<f32>,
    lane: u32,
    #[comptime] dim: u32,
    #[comptime] lanes: u32,
    #[comptime] plane: u32,
) {
    let whole = comptime!(dim == lanes * CHANNELS);
    #[unroll]
    for stage in 0..comptime!(CHANNELS.ilog2()) {
        let half = comptime!(1u32 << stage);
        #[unroll]
        for pair in 0..comptime!(CHANNELS / 2) {
            let low = comptime!((pair / half * 2 * half + pair % half) as usize);
            let high = comptime!(low + half as usize);
            let last = comptime!(dim / (2 * half) * (2 * half));
            let a = x[low];
            let b = x[high];
            if comptime!(whole) {
                x[low] = a + b;
                x[high] = a - b;
            } else {
                let inside = lane * CHANNELS + comptime!(high as u32) < last;
                x[low] = select(inside, a + b, a);
                x[high] = select(inside, a - b, b);
            }
        }
    }
    #[unroll]
    for stage in 0..comptime!(lanes.ilog2()) {
        let distance = comptime!(1u32 << stage);
        let half = comptime!(distance * CHANNELS);
        let last = comptime!(dim / (2 * half) * (2 * half));
        // The upper one of a pair becomes the difference.
        let sign = select(lane / distance % 2 == 1, f32::new(-1.0), f32::new(1.0));
        // Both of a pair are inside, or neither.
        let inside = lane * CHANNELS < last;
        if comptime!(plane >= lanes) {
            #[unroll]
            for i in 0..CHANNELS as usize {
                let mine = x[i];
                let other = plane_shuffle_xor(mine, distance);
                let sum = sign * mine + other;
                x[i] = if comptime!(whole) { sum } else { select(inside, sum, mine) };
            }
        } else {
            // Loops that stay loops: without planes a compiler is at work for whom much code takes long.
            sync_cube();
            for i in 0..CHANNELS {
                shared[(i * THREADS + UNIT_POS_X) as usize] = x[i as usize];
            }
            sync_cube();
            // The threads of a row are neighbours, and a row begins at a multiple of their number.
            let partner = UNIT_POS_X ^ distance;
            for i in 0..CHANNELS {
                let mine = x[i as usize];
                let sum = sign * mine + shared[(i * THREADS + partner) as usize];
                x[i as usize] = if comptime!(whole) { sum } else { select(inside, sum, mine) };
            }
        }
    }
}

/// Rotates `rows` rows of `dim` channels in shared memory, or with `back` undoes that. `channels` holds a sign for each channel, then a scale. All
/// `threads` threads of the cube take part, and see the result.
#[cube]
pub(crate) fn rotate_shared(
    x: &mut SharedMemory<f32>,
    channels: &Array<f32>,
    #[comptime] rows: u32,
    #[comptime] dim: u32,
    #[comptime] threads: u32,
    #[comptime] back: bool,
) {
    sync_cube();
    if comptime!(!back) {
        let mut i = UNIT_POS;
        while i < rows * dim {
            x[i as usize] *= channels[(i % dim) as usize];
            i += threads;
        }
        sync_cube();
    }
    #[unroll]
    for stage in 0..comptime!(dim.ilog2()) {
        let half = comptime!(1u32 << stage);
        let pairs = comptime!(dim / (2 * half) * half);
        let mut i = UNIT_POS;
        while i < rows * pairs {
            let pair = i % pairs;
            let low = i / pairs * dim + pair / half * comptime!(2 * half) + pair % half;
            let a = x[low as usize];
            let b = x[(low + half) as usize];
            x[low as usize] = a + b;
            x[(low + half) as usize] = a - b;
            i += threads;
        }
        sync_cube();
    }
    let mut i = UNIT_POS;
    while i < rows * dim {
        let channel = i % dim;
        let mut factor = channels[(dim + channel) as usize];
        if comptime!(back) {
            factor *= channels[channel as usize];
        }
        x[i as usize] *= factor;
        i += threads;
    }
    sync_cube();
}
