//! Mean logits from the mean query and stored mean keys.

use cubecl::prelude::*;

/// Channels of a cube.
pub(crate) const CHANNELS: u32 = 32;
/// Lanes that share a channel's tokens.
pub(crate) const LANES: u32 = 8;
/// Threads that share a candidate.
pub(crate) const THREADS: u32 = 128;

/// Sums of the queries over tokens and over the heads of a group: `out[part, sequence, kv_head * dim + d]`. Cube x counts blocks of
/// channels, cube y parts of the tokens, cube z sequences.
#[cube(launch)]
pub(crate) fn query_sums<F: Float>(
    q: &Array<F>,
    out: &mut Array<f32>,
    tokens: u32,
    query_heads: u32,
    kv_heads: u32,
    dim: u32,
) {
    let mut sums = SharedMemory::<f32>::new((CHANNELS * LANES) as usize);
    let channels = kv_heads * dim;
    let channel = CUBE_POS_X * CHANNELS + UNIT_POS_X;
    let inside = channel < channels;
    let group = query_heads / kv_heads;
    let mut sum = 0.0f32;
    if inside {
        let head = channel / dim * group;
        let within = channel % dim;
        let mut token = CUBE_POS_Y * LANES + UNIT_POS_Y;
        let stride = CUBE_COUNT_Y * LANES;
        while token < tokens {
            let row = (CUBE_POS_Z * tokens + token) * query_heads;
            for member in 0..group {
                sum += f32::cast_from(q[((row + head + member) * dim + within) as usize]);
            }
            token += stride;
        }
    }
    sums[(UNIT_POS_Y * CHANNELS + UNIT_POS_X) as usize] = sum;
    sync_cube();
    if inside && UNIT_POS_Y == 0 {
        let mut total = 0.0f32;
        #[unroll]
        for lane in 0..LANES {
            total += sums[(lane * CHANNELS + UNIT_POS_X) as usize];
        }
        out[((CUBE_POS_Y * CUBE_COUNT_Z + CUBE_POS_Z) * channels + channel) as usize] = total;
    }
}

/// `out[c] = scale * <sum of query sums of the candidate's sequence, mean key of its slot>`. One cube a candidate.
#[cube(launch)]
pub(crate) fn candidate_logits(
    sums: &Array<f32>,
    moments: &Array<f32>,
    slots: &Array<u32>,
    sequence_of: &Array<u32>,
    out: &mut Array<f32>,
    parts: u32,
    sequences: u32,
    channels: u32,
    scale: f32,
) {
    let mut partial = SharedMemory::<f32>::new(THREADS as usize);
    let candidate = CUBE_POS_X as usize;
    let slot = slots[candidate];
    let sequence = sequence_of[candidate];
    let mut dot = 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < channels {
        let mut query = 0.0f32;
        for part in 0..parts {
            query += sums[((part * sequences + sequence) * channels + channel) as usize];
        }
        dot += query * moments[(slot * 2 * channels + channel) as usize];
        channel += THREADS;
    }
    partial[UNIT_POS_X as usize] = dot;
    sync_cube();
    let mut half = comptime!(THREADS / 2).runtime();
    while half > 0 {
        if UNIT_POS_X < half {
            let other = partial[(UNIT_POS_X + half) as usize];
            partial[UNIT_POS_X as usize] += other;
        }
        sync_cube();
        half /= 2;
    }
    if UNIT_POS_X == 0 {
        out[candidate] = partial[0] * scale;
    }
}
