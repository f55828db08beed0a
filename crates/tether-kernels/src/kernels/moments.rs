//! Mean and sum of squared deviations per unit and channel.

use cubecl::prelude::*;

/// Channels of a cube.
pub(crate) const CHANNELS: u32 = 32;
/// Lanes that share a channel's tokens.
pub(crate) const LANES: u32 = 8;

/// Moments of the units in slots `slots`, `[slots, 2, channels]`. One cube does `CHANNELS` channels of one unit: cube x counts
/// blocks of channels, cube y units.
///
/// Deviations are taken from the unit's first token and not from 0, so that a channel with a large mean and a small spread keeps its
/// spread, and a constant one has exactly none.
#[cube(launch)]
pub(crate) fn unit_moments<F: Float>(
    store: &Array<F>,
    slots: &Array<u32>,
    moments: &mut Array<f32>,
    tokens: u32,
    channels: u32,
) {
    let mut sums = SharedMemory::<f32>::new((CHANNELS * LANES) as usize);
    let mut squares = SharedMemory::<f32>::new((CHANNELS * LANES) as usize);
    let channel = CUBE_POS_X * CHANNELS + UNIT_POS_X;
    let slot = slots[CUBE_POS_Y as usize];
    let inside = channel < channels;
    let first = slot * tokens * channels + channel;
    let mut shift = 0.0f32;
    let mut sum = 0.0f32;
    let mut square = 0.0f32;
    if inside {
        shift = f32::cast_from(store[first as usize]);
        let mut token = UNIT_POS_Y;
        while token < tokens {
            let d = f32::cast_from(store[(first + token * channels) as usize]) - shift;
            sum += d;
            square += d * d;
            token += LANES;
        }
    }
    let place = (UNIT_POS_Y * CHANNELS + UNIT_POS_X) as usize;
    sums[place] = sum;
    squares[place] = square;
    sync_cube();
    if inside && UNIT_POS_Y == 0 {
        let mut sum = 0.0f32;
        let mut square = 0.0f32;
        #[unroll]
        for lane in 0..LANES {
            let place = (lane * CHANNELS + UNIT_POS_X) as usize;
            sum += sums[place];
            square += squares[place];
        }
        let count = f32::cast_from(tokens);
        let out = (slot * 2 * channels + channel) as usize;
        moments[out] = shift + sum / count;
        moments[out + channels as usize] = (square - sum * sum / count).max(0.0);
    }
}

/// The moments of slots `slots` as `[slots, 2 * channels]`.
#[cube(launch)]
pub(crate) fn gather_moments(moments: &Array<f32>, slots: &Array<u32>, out: &mut Array<f32>, row: u32) {
    if ABSOLUTE_POS < out.len() {
        let len = row as usize;
        out[ABSOLUTE_POS] = moments[slots[ABSOLUTE_POS / len] as usize * len + ABSOLUTE_POS % len];
    }
}
