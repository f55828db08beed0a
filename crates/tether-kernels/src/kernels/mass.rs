//! Mean logits from the mean query and stored mean keys.

use cubecl::prelude::*;

use super::column::load_batch;
use super::words::Words;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 256;
/// Tokens that a thread reads before it adds the first of them.
const AT_ONCE: u32 = 6;
/// Threads that share a candidate.
const SHARE: u32 = 8;
/// Threads of a cube that adds up one candidate's parts.
pub(crate) const SUM_THREADS: u32 = 128;

/// Sums queries over a part of the tokens, for some channels, and multiplies them with the candidates' mean keys: one part of every candidate's
/// logit. A mean of inner products is the inner product of the means, so no logit of a token is ever formed.
///
/// Cube x counts blocks of `columns` vectors of a query token (`width` vectors, `head` of them a head, `group` query heads a key head, more than one where `grouped`), cube y parts of the tokens, cube z
/// sequences. `words` begins with the first candidate of each of the sequences and the number of candidates, counted in words; candidates
/// are rows of `moments`. Part `p` of candidate `c` goes to `out[first + c * parts + p]`.
#[cube(launch_unchecked)]
pub(crate) fn query_dots<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    moments: &Array<f32>,
    words: &Words,
    out: &mut Array<f32>,
    tokens: u32,
    width: u32,
    head: u32,
    group: u32,
    row_len: u32,
    first: u32,
    #[comptime] columns: u32,
    #[comptime] grouped: bool,
) {
    let size = N::value();
    let size = comptime!(size as u32);
    let channels = comptime!(columns * size);
    let lanes = comptime!(THREADS / columns);
    let groups = comptime!(if THREADS / channels < lanes { THREADS / channels } else { lanes });
    // One place a thread and element of a vector; the padding keeps the threads that add up off each other's banks.
    let stride = comptime!(THREADS + columns);
    let mut sums = SharedMemory::<f32>::new(comptime!((size * stride) as usize));
    let mut query = SharedMemory::<f32>::new(comptime!(channels as usize));
    let mut dots = SharedMemory::<f32>::new(comptime!(THREADS as usize));

    let words = words.staged();
    let column = CUBE_POS_X * columns + UNIT_POS % columns;
    let sum = sum_column(q, tokens, width, column, lanes, UNIT_POS / columns);
    // The candidates' keys come while the queries are added up: some channels of one candidate a thread.
    let at_once = comptime!(THREADS / SHARE);
    let per_thread = comptime!(channels / SHARE);
    let share = UNIT_POS % SHARE;
    let dim = head * size;
    let mut places = Array::<u32>::new(comptime!(per_thread as usize));
    let mut keys = Array::<f32>::new(comptime!(per_thread as usize));
    #[unroll]
    for i in 0..per_thread {
        let channel = CUBE_POS_X * channels + i * SHARE + share;
        // The channel of the key head that this query head goes with. Sums beyond the edge are 0.
        let key = if comptime!(grouped) { channel / (dim * group) * dim + channel % dim } else { channel };
        places[i as usize] = select(channel < width * size, key, 0);
    }
    let end = words[(CUBE_POS_Z + 1) as usize];
    let mut candidate = words[CUBE_POS_Z as usize] + UNIT_POS / SHARE;
    load_keys(moments, &words, &mut keys, &places, candidate, end, row_len, per_thread);

    #[unroll]
    for i in 0..size {
        sums[(i * stride + UNIT_POS) as usize] = sum[i as usize];
    }
    sync_cube();
    let element = UNIT_POS / comptime!(columns * groups);
    if element < size {
        let place = element * stride + UNIT_POS % comptime!(columns * groups);
        let mut total = 0.0f32;
        #[unroll]
        for i in 0..comptime!(lanes / groups) {
            total += sums[(place + i * comptime!(columns * groups)) as usize];
        }
        // Only this thread reads this place.
        sums[place as usize] = total;
    }
    sync_cube();
    let element = UNIT_POS / columns;
    if element < size {
        let mut total = 0.0f32;
        #[unroll]
        for i in 0..groups {
            total += sums[(element * stride + i * columns + UNIT_POS % columns) as usize];
        }
        query[(UNIT_POS % columns * size + element) as usize] = total;
    }
    sync_cube();

    let before = words[0];
    let part = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let parts = CUBE_COUNT_X * CUBE_COUNT_Y;
    let mut round = words[CUBE_POS_Z as usize];
    while round < end {
        let mut dot = 0.0f32;
        #[unroll]
        for i in 0..per_thread {
            dot += query[(i * SHARE + share) as usize] * keys[i as usize];
        }
        dots[UNIT_POS as usize] = dot;
        sync_cube();
        if share == 0 && candidate < end {
            let mut total = 0.0f32;
            #[unroll]
            for i in 0..SHARE {
                total += dots[(UNIT_POS + i) as usize];
            }
            out[(first + (candidate - before) * parts + part) as usize] = total;
        }
        sync_cube();
        round += at_once;
        candidate += at_once;
        load_keys(moments, &words, &mut keys, &places, candidate, end, row_len, per_thread);
    }
}

/// A thread's channels of its candidate's mean key.
#[cube]
fn load_keys(
    moments: &Array<f32>,
    words: &Slice<u32>,
    keys: &mut Array<f32>,
    places: &Array<u32>,
    candidate: u32,
    end: u32,
    row_len: u32,
    #[comptime] count: u32,
) {
    if candidate < end {
        let row = words[candidate as usize] * row_len;
        #[unroll]
        for i in 0..count {
            let place = row + places[i as usize];
            keys[i as usize] = moments[place as usize];
        }
    }
}

/// Sum of a cube's part of a column.
#[cube]
fn sum_column<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    tokens: u32,
    width: u32,
    column: u32,
    #[comptime] lanes: u32,
    lane: u32,
) -> Vector<f32, N> {
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut held = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    if column < width {
        let apart = CUBE_COUNT_Y * lanes;
        let step = apart * width;
        let mut token = CUBE_POS_Y * lanes + lane;
        let mut at = (CUBE_POS_Z * tokens + token) * width + column;
        while token < tokens {
            load_batch(q, &mut held, at, step, token, apart, tokens, AT_ONCE);
            #[unroll]
            for i in 0..AT_ONCE {
                if token + i * apart < tokens {
                    sum += Vector::cast_from(held[i as usize]);
                }
            }
            token += AT_ONCE * apart;
            at += AT_ONCE * step;
        }
    }
    sum
}

/// `out[first + c] = scale * <sum of the parts of candidate c>`. One cube a candidate.
#[cube(launch_unchecked)]
pub(crate) fn sum_parts(
    dots: &Array<f32>,
    out: &mut Array<f32>,
    first: u32,
    candidates: u32,
    dots_first: u32,
    parts: u32,
    scale: f32,
) {
    let mut partial = SharedMemory::<f32>::new(comptime!(SUM_THREADS as usize));
    let candidate = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let mut sum = 0.0f32;
    if candidate < candidates {
        let mut part = UNIT_POS;
        while part < parts {
            sum += dots[(dots_first + candidate * parts + part) as usize];
            part += SUM_THREADS;
        }
    }
    partial[UNIT_POS as usize] = sum;
    sync_cube();
    let mut half = comptime!(SUM_THREADS / 2).runtime();
    while half > 0 {
        if UNIT_POS < half {
            let other = partial[(UNIT_POS + half) as usize];
            partial[UNIT_POS as usize] += other;
        }
        sync_cube();
        half /= 2;
    }
    if UNIT_POS == 0 && candidate < candidates {
        out[(first + candidate) as usize] = partial[0] * scale;
    }
}
