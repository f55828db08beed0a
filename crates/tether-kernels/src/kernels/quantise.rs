//! Codes of 8 and 4 bits, and back.
//!
//! Codes are packed into 32-bit words. A thread always works on the channels of two vectors that lie half a head apart, because 4-bit codes
//! share a byte that way; with 8-bit codes the two give words of their own.

use cubecl::prelude::*;

/// Threads of a cube in [`quantise_tokens`].
pub(crate) const THREADS: u32 = 256;

/// To the nearest whole number, halves away from zero.
#[cube]
fn nearest(x: f32) -> i32 {
    let magnitude = i32::cast_from(x.abs() + 0.5f32);
    select(x < 0.0f32, -magnitude, magnitude)
}

#[cube]
fn larger(a: f32, b: f32) -> f32 {
    a.max(b)
}

#[cube]
fn smaller(a: f32, b: f32) -> f32 {
    a.min(b)
}

/// Symmetric codes per token and head. `lanes` threads share a row of `2 * lanes * N` channels; with planes they find the row's largest
/// magnitude by shuffles (`lanes` is then a power of two that divides the plane), else through shared memory.
#[cube(launch_unchecked)]
pub(crate) fn quantise_tokens<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    codes: &mut Array<u32>,
    scales: &mut Array<f32>,
    rows: u32,
    lanes: u32,
    smallest: f32,
    #[comptime] bits: u32,
    #[comptime] plane_lanes: u32,
) {
    let n = N::value();
    let lane = UNIT_POS_X % lanes;
    let row_in_cube = UNIT_POS_X / lanes;
    let rows_of_cube = THREADS / lanes;
    let row = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * rows_of_cube + row_in_cube;
    let inside = row < rows && row_in_cube < rows_of_cube;
    let place = (row * 2 * lanes + lane) as usize;
    let mut low = Vector::<f32, N>::empty();
    let mut high = Vector::<f32, N>::empty();
    if inside {
        low = Vector::cast_from(x[place]);
        high = Vector::cast_from(x[place + lanes as usize]);
    }
    let mut largest = 0.0f32;
    #[unroll]
    for i in 0..n {
        largest = larger(largest, larger(low[i].abs(), high[i].abs()));
    }
    if comptime!(plane_lanes > 0) {
        let steps = comptime!(plane_lanes.ilog2());
        #[unroll]
        for step in 0..steps {
            largest = larger(largest, plane_shuffle_xor(largest, comptime!(1u32 << step)));
        }
    } else {
        let mut all = SharedMemory::<f32>::new(THREADS as usize);
        all[UNIT_POS_X as usize] = largest;
        sync_cube();
        if inside {
            for i in 0..lanes {
                largest = larger(largest, all[(row_in_cube * lanes + i) as usize]);
            }
        }
    }
    if inside {
        let limit = comptime!(if bits == 4 { 7.0f32 } else { 127.0f32 });
        let range = larger(largest, smallest);
        let scale = range / limit;
        let inverse = limit / range;
        if lane == 0u32 {
            scales[row as usize] = scale;
        }
        if comptime!(bits == 4) {
            let words = comptime!(n / 4);
            #[unroll]
            for w in 0..words {
                let mut word = 0u32;
                #[unroll]
                for i in 0..4usize {
                    let a = u32::cast_from(nearest(low[4 * w + i] * inverse) + 8i32);
                    let b = u32::cast_from(nearest(high[4 * w + i] * inverse) + 8i32);
                    word |= (a | (b << 4u32)) << comptime!(8 * i as u32);
                }
                codes[(row * lanes + lane) as usize * words + w] = word;
            }
        } else {
            let words = comptime!(n / 4);
            #[unroll]
            for w in 0..words {
                let mut a = 0u32;
                let mut b = 0u32;
                #[unroll]
                for i in 0..4usize {
                    let shift = comptime!(8 * i as u32);
                    a |= (u32::cast_from(nearest(low[4 * w + i] * inverse)) & 255u32) << shift;
                    b |= (u32::cast_from(nearest(high[4 * w + i] * inverse)) & 255u32) << shift;
                }
                codes[place * words + w] = a;
                codes[(place + lanes as usize) * words + w] = b;
            }
        }
    }
}

/// Channel words of a cube in [`quantise_channels`].
pub(crate) const CHANNEL_WORDS: u32 = 16;
/// Threads that share a channel's tokens there.
pub(crate) const TOKEN_LANES: u32 = 16;

/// Asymmetric codes per channel over `size` tokens. Cube x counts blocks of channel words, cube y groups, cube z heads. A thread takes four channels
/// in a row, and with 4-bit codes the four that lie half a head further.
#[cube(launch_unchecked)]
pub(crate) fn quantise_channels<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    codes: &mut Array<u32>,
    scales: &mut Array<f32>,
    zeros: &mut Array<f32>,
    tokens: u32,
    heads: u32,
    head_dim: u32,
    size: u32,
    smallest: f32,
    #[comptime] bits: u32,
) {
    let n = N::value();
    let parts = comptime!(if bits == 4 { 2usize } else { 1usize });
    let per_part = comptime!(4 / n);
    let channels = comptime!(4 * parts);
    let words = if comptime!(bits == 4) { head_dim / 8 } else { head_dim / 4 };
    let word = CUBE_POS_X * CHANNEL_WORDS + UNIT_POS_X;
    let inside = word < words;
    let head = CUBE_POS_Z;
    let begin = CUBE_POS_Y * size;
    let mut end = begin + size;
    if end > tokens {
        end = tokens;
    }
    let row = head_dim / n as u32;
    let mut least = Array::<f32>::new(channels);
    let mut most = Array::<f32>::new(channels);
    #[unroll]
    for i in 0..channels {
        least[i] = f32::new(3e38);
        most[i] = f32::new(-3e38);
    }
    let mut token = begin + UNIT_POS_Y;
    if inside {
        while token < end {
            let place = (token * heads + head) * row;
            #[unroll]
            for part in 0..parts {
                #[unroll]
                for v in 0..per_part {
                    let at = place + (word * per_part as u32) + part as u32 * (row / 2) + v as u32;
                    let values = Vector::<f32, N>::cast_from(x[at as usize]);
                    #[unroll]
                    for i in 0..n {
                        let c = comptime!(4 * part + v * n + i);
                        least[c] = smaller(least[c], values[i]);
                        most[c] = larger(most[c], values[i]);
                    }
                }
            }
            token += TOKEN_LANES;
        }
    }
    let mut shared_least =
        SharedMemory::<f32>::new(comptime!((CHANNEL_WORDS * TOKEN_LANES) as usize * channels));
    let mut shared_most =
        SharedMemory::<f32>::new(comptime!((CHANNEL_WORDS * TOKEN_LANES) as usize * channels));
    #[unroll]
    for i in 0..channels {
        let at = (UNIT_POS_Y * CHANNEL_WORDS + UNIT_POS_X) as usize
            + i * comptime!((CHANNEL_WORDS * TOKEN_LANES) as usize);
        shared_least[at] = least[i];
        shared_most[at] = most[i];
    }
    sync_cube();
    if inside {
        let mut inverse = Array::<f32>::new(channels);
        let limit = comptime!(if bits == 4 { 15.0f32 } else { 255.0f32 });
        #[unroll]
        for i in 0..channels {
            for lane in 0..TOKEN_LANES {
                let at = (lane * CHANNEL_WORDS + UNIT_POS_X) as usize
                    + i * comptime!((CHANNEL_WORDS * TOKEN_LANES) as usize);
                least[i] = smaller(least[i], shared_least[at]);
                most[i] = larger(most[i], shared_most[at]);
            }
            let range = larger(most[i] - least[i], smallest);
            inverse[i] = limit / range;
            if UNIT_POS_Y == 0 {
                let channel = word * 4 + comptime!(i as u32 % 4) + comptime!(i as u32 / 4) * (head_dim / 2);
                let at = ((CUBE_POS_Y * heads + head) * head_dim + channel) as usize;
                scales[at] = range / limit;
                zeros[at] = least[i];
            }
        }
        let mut token = begin + UNIT_POS_Y;
        while token < end {
            let place = (token * heads + head) * row;
            let mut packed = 0u32;
            #[unroll]
            for part in 0..parts {
                #[unroll]
                for v in 0..per_part {
                    let at = place + (word * per_part as u32) + part as u32 * (row / 2) + v as u32;
                    let values = Vector::<f32, N>::cast_from(x[at as usize]);
                    #[unroll]
                    for i in 0..n {
                        let c = comptime!(4 * part + v * n + i);
                        let code = u32::cast_from((values[i] - least[c]) * inverse[c] + 0.5f32);
                        packed |= code << comptime!((8 * (v * n + i) + 4 * part) as u32);
                    }
                }
            }
            codes[((token * heads + head) * words + word) as usize] = packed;
            token += TOKEN_LANES;
        }
    }
}

/// Back to numbers. One word of codes a thread: four channels in a row, and with 4-bit codes the four that lie half a head further.
#[cube(launch_unchecked)]
pub(crate) fn dequantise<F: Float, N: Size>(
    codes: &Array<u32>,
    scales: &Array<f32>,
    zeros: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    rows: u32,
    heads: u32,
    head_dim: u32,
    size: u32,
    #[comptime] bits: u32,
    #[comptime] per_token: bool,
) {
    let n = N::value();
    let parts = comptime!(if bits == 4 { 2usize } else { 1usize });
    let per_part = comptime!(4 / n);
    let words = if comptime!(bits == 4) { head_dim / 8 } else { head_dim / 4 };
    let row = ABSOLUTE_POS as u32 / words;
    let word = ABSOLUTE_POS as u32 % words;
    if row < rows {
        let packed = codes[ABSOLUTE_POS];
        let row_vectors = head_dim / n as u32;
        let token = row / heads;
        let head = row % heads;
        #[unroll]
        for part in 0..parts {
            #[unroll]
            for v in 0..per_part {
                let mut values = Vector::<f32, N>::empty();
                #[unroll]
                for i in 0..n {
                    let within = comptime!((v * n + i) as u32);
                    let channel = word * 4 + within + part as u32 * (head_dim / 2);
                    let shift = comptime!(8 * within + 4 * part as u32);
                    if comptime!(per_token) {
                        let scale = scales[row as usize];
                        let code = if comptime!(bits == 4) {
                            i32::cast_from((packed >> shift) & 15u32) - 8i32
                        } else {
                            let byte = (packed >> shift) & 255u32;
                            i32::cast_from(byte) - select(byte > 127u32, 256i32, 0i32)
                        };
                        values[i] = f32::cast_from(code) * scale;
                    } else {
                        let mask = comptime!(if bits == 4 { 15u32 } else { 255u32 });
                        let at = ((token / size * heads + head) * head_dim + channel) as usize;
                        values[i] = f32::cast_from((packed >> shift) & mask) * scales[at] + zeros[at];
                    }
                }
                let at =
                    row * row_vectors + word * per_part as u32 + part as u32 * (row_vectors / 2) + v as u32;
                out[at as usize] = Vector::cast_from(values);
            }
        }
    }
}
