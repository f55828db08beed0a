//! Block attention on matrix units: CUDA's 16 x 8 x 16 product.
//!
//! Queries and keys come out of shared memory in whole 16-byte words: which channel sits where in an operand is free as long as the two agree,
//! so a thread's word of 8 channels serves two steps of the contraction. Values are transposed on the way. Logits are kept to base 2, which
//! is what the hardware raises.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::barrier::{Barrier, copy_async};
use cubecl::prelude::*;

/// Turns a power of e into a power of 2.
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Keys of a tile.
pub(crate) const TILE: u32 = 32;

/// Tiles in shared memory: the one that is read, the next, and one that slower warps may still read.
const STAGES: u32 = 3;

/// Words from a row of keys or queries to the next in shared memory: eight rows by four words are read at a time, and meet in no bank.
const KEY_PAD: u32 = 4;
/// The same for values, of which eight rows of one word are read at a time.
const VALUE_PAD: u32 = 1;

/// One instruction, where an exponential is several.
#[cube]
fn power_of_2(x: f32) -> f32 {
    f32::new(2.0).powf(x)
}

/// A thread's part of an operand of 16 rows and 16 channels.
#[cube]
fn query_operand<F: Float, N2: Size, N4: Size>(
    queries: &SharedMemory<Vector<u32, N4>>,
    at: u32,
) -> Array<Vector<F, N2>> {
    let words = queries[at as usize];
    let mut operand = Array::<Vector<F, N2>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        operand[i] = Vector::reinterpret(words[i]);
    }
    operand
}

/// Starts this thread's copies of a tile from `start` on to row `base` of shared memory.
#[cube]
fn copy_tile<C: CubePrimitive>(
    source: &Array<C>,
    slots: &Array<u32>,
    tile: &mut SharedMemory<C>,
    base: u32,
    start: u32,
    total: u32,
    begin: u32,
    kv_heads: u32,
    kv_head: u32,
    #[comptime] tokens: u32,
    #[comptime] row_words: u32,
    #[comptime] step: u32,
    #[comptime] threads: u32,
    #[comptime] word: u32,
) {
    #[unroll]
    for i in 0..comptime!((TILE * row_words / threads) as usize) {
        let index = UNIT_POS_X + comptime!(i as u32 * threads);
        let key = start + index / row_words;
        // Past the end the last one comes again; its weight is nothing.
        let key = select(key < total, key, total - 1u32);
        let slot = slots[(begin + key / tokens) as usize];
        let row = (slot * tokens + key % tokens) * kv_heads + kv_head;
        let from = (row * row_words + index % row_words) as usize;
        let to = ((base + index / row_words) * step + index % row_words) as usize;
        copy_async(&source.slice(from, from + 1), &mut tile.slice_mut(to, to + 1), word);
    }
}

/// Softmax attention of `warps * blocks * 16` query rows a cube over tiles of 32 keys. Queries are prepared (scaled, rotated, `f32`). Keys lie in `key_slots`, values in
/// `value_slots`, unit after unit; those of sequence `s` from `first_unit[s]` to `first_unit[s + 1]`. `dim_k` and `dim_v` are multiples of 64.
///
/// A block of rows (a row is a query head of the group and a token) of a key head of a sequence is a task; tasks count in this order, rows
/// fastest. The first `whole` tasks are a cube each. The others, which would leave most of a last wave idle, are cut into `parts` cubes by
/// their keys, which leave `sums` `[tasks, parts, rows, dim_v]` and, for each row, the highest logit and the weight in `weights_of`
/// `[tasks, parts, rows, 2]` for [`super::attend_parts`]. The queries of `held` steps of 32 channels stay in registers, the others in shared
/// memory.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
pub(crate) fn attend_matrix<F: Float, N4: Size, N8: Size>(
    q: &Array<f32>,
    keys: &Array<Vector<u32, N4>>,
    values: &Array<Vector<F, N8>>,
    key_slots: &Array<u32>,
    value_slots: &Array<u32>,
    first_unit: &Array<u32>,
    out: &mut Array<f32>,
    part_sums: &mut Array<f32>,
    part_weights: &mut Array<f32>,
    query_tokens: u32,
    kv_heads: u32,
    group: u32,
    cubes: u32,
    whole: u32,
    parts: u32,
    #[comptime] tokens: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] warps: u32,
    #[comptime] blocks: usize,
    #[comptime] held: usize,
) {
    let threads = comptime!(warps * 32);
    let cube_rows = comptime!(warps * 16 * blocks as u32);
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let size!(N2) = 2usize;
    let row_k = comptime!(dim_k / 8);
    let row_v = comptime!(dim_v / 8);
    let step_k = comptime!(row_k + KEY_PAD);
    let step_v = comptime!(row_v + VALUE_PAD);
    let mut shared_q =
        SharedMemory::<Vector<u32, N4>>::new_aligned(comptime!((cube_rows * row_k) as usize), 16usize);
    let mut shared_k =
        SharedMemory::<Vector<u32, N4>>::new_aligned(comptime!((STAGES * TILE * step_k) as usize), 16usize);
    let mut shared_v =
        SharedMemory::<Vector<F, N8>>::new_aligned(comptime!((STAGES * TILE * step_v) as usize), 16usize);

    let lane = UNIT_POS_X % 32;
    let warp = UNIT_POS_X / 32;
    let quad = lane % 4;
    let octet = lane / 4;
    let rows = group * query_tokens;
    let query_heads = kv_heads * group;
    // A grid of two axes may have a few cubes too many: they do what the last one does.
    let cube = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X).min(cubes - 1u32);
    let is_whole = cube < whole;
    let task = select(is_whole, cube, whole + (cube - whole) / parts);
    let part = select(is_whole, 0u32, (cube - whole) % parts);
    let row_blocks = rows.div_ceil(cube_rows);
    let first_row = task % row_blocks * cube_rows;
    let kv_head = task / row_blocks % kv_heads;
    let sequence = task / row_blocks / kv_heads;

    // Queries to shared memory as whole operands: blocks of 16 rows, then halves of 32 channels, then lanes.
    let mut index = UNIT_POS_X;
    while index < comptime!(cube_rows * row_k) {
        let place = index % 32;
        let operand = index / 32 % comptime!(dim_k / 16);
        let upper = first_row + index / comptime!(2 * dim_k) * 16 + place / 4;
        let channel = operand / 2 * 32 + place % 4 * 8 + operand % 2 * 4;
        let mut word = Vector::<u32, N4>::empty();
        #[unroll]
        for half in 0..2usize {
            let row = upper + comptime!(8 * half as u32);
            let row = select(row < rows, row, rows - 1u32);
            let head = kv_head * group + row / query_tokens;
            let from =
                ((sequence * query_tokens + row % query_tokens) * query_heads + head) * dim_k + channel;
            #[unroll]
            for i in 0..2usize {
                let mut pair = Vector::<F, N2>::empty();
                let at = (from + comptime!(2 * i as u32)) as usize;
                pair[0] = F::cast_from(q[at] * f32::new(LOG2_E));
                pair[1] = F::cast_from(q[at + 1] * f32::new(LOG2_E));
                word[comptime!(2 * i + half)] = u32::reinterpret(pair);
            }
        }
        shared_q[index as usize] = word;
        index += threads;
    }

    let value_blocks = comptime!((dim_v / 8) as usize);
    let mut sums = Sequence::<Array<Vector<f32, N2>>>::new();
    #[unroll]
    for _ in 0..comptime!(blocks * value_blocks) {
        let mut c = Array::<Vector<f32, N2>>::new(2usize);
        c[0] = Vector::new(0.0f32);
        c[1] = Vector::new(0.0f32);
        sums.push(c);
    }
    let mut highest = Array::<f32>::new(comptime!(2 * blocks));
    let mut weights = Array::<f32>::new(comptime!(2 * blocks));
    #[unroll]
    for i in 0..comptime!(2 * blocks) {
        highest[i] = f32::new(-1e30);
        weights[i] = 0.0f32;
    }

    let begin = first_unit[sequence as usize];
    let total = (first_unit[sequence as usize + 1] - begin) * tokens;
    let tiles = total.div_ceil(TILE);
    let mut start = select(is_whole, 0u32, tiles * part / parts * TILE);
    let end = select(is_whole, total, total.min(tiles * (part + 1u32) / parts * TILE));
    // Every thread arrives once a tile, and its copies with it. Whoever waits for a tile knows that all have done with the one before the
    // last, whose place the next tile takes.
    let arrived = Barrier::shared(threads, UNIT_POS_X == 0u32);
    let query_base = warp * comptime!(blocks as u32 * 2 * dim_k) + lane;
    let mut held_queries = Sequence::<Array<Vector<F, N2>>>::new();
    #[unroll]
    for j in 0..held {
        #[unroll]
        for step in 0..2usize {
            #[unroll]
            for m in 0..blocks {
                held_queries.push(query_operand::<F, N2, N4>(
                    &shared_q,
                    query_base + comptime!((2 * dim_k) * m as u32 + 64 * j as u32 + 32 * step as u32),
                ));
            }
        }
    }
    let mut stage = 0u32;
    let mut phase = 0u32;
    if start < end {
        copy_tile::<Vector<u32, N4>>(
            keys,
            key_slots,
            &mut shared_k,
            0u32,
            start,
            total,
            begin,
            kv_heads,
            kv_head,
            tokens,
            row_k,
            step_k,
            threads,
            4u32,
        );
        copy_tile::<Vector<F, N8>>(
            values,
            value_slots,
            &mut shared_v,
            0u32,
            start,
            total,
            begin,
            kv_heads,
            kv_head,
            tokens,
            row_v,
            step_v,
            threads,
            8u32,
        );
        arrived.commit_copy_async();
        let _ = arrived.arrive();
    }
    while start < end {
        arrived.wait_parity(phase);
        phase = 1u32 - phase;
        let base = stage * TILE;
        stage = select(stage == comptime!(STAGES - 1), 0u32, stage + 1u32);
        let following = start + TILE;
        if following < end {
            copy_tile::<Vector<u32, N4>>(
                keys,
                key_slots,
                &mut shared_k,
                stage * TILE,
                following,
                total,
                begin,
                kv_heads,
                kv_head,
                tokens,
                row_k,
                step_k,
                threads,
                4u32,
            );
            copy_tile::<Vector<F, N8>>(
                values,
                value_slots,
                &mut shared_v,
                stage * TILE,
                following,
                total,
                begin,
                kv_heads,
                kv_head,
                tokens,
                row_v,
                step_v,
                threads,
                8u32,
            );
            arrived.commit_copy_async();
            let _ = arrived.arrive();
        }
        let key_base = (base + octet) * step_k + quad;
        let value_base = (base + lane % 16) * step_v + lane / 16;

        // Logits: four blocks of 8 keys for each block of 16 rows.
        let mut logits = Sequence::<Array<Vector<f32, N2>>>::new();
        #[unroll]
        for _ in 0..comptime!(blocks * 4) {
            let mut c = Array::<Vector<f32, N2>>::new(2usize);
            c[0] = Vector::new(0.0f32);
            c[1] = Vector::new(0.0f32);
            logits.push(c);
        }
        #[unroll]
        for j in 0..comptime!((dim_k / 32) as usize) {
            let mut b = Array::<Vector<u32, N4>>::new(4usize);
            #[unroll]
            for n in 0..4usize {
                b[n] = shared_k[(key_base + comptime!(8 * n as u32 * step_k + 4 * j as u32)) as usize];
            }
            #[unroll]
            for step in 0..2usize {
                let mut a = Sequence::<Array<Vector<F, N2>>>::new();
                #[unroll]
                for m in 0..blocks {
                    let at =
                        query_base + comptime!((2 * dim_k) * m as u32 + 64 * j as u32 + 32 * step as u32);
                    if comptime!(j < held) {
                        let held = held_queries.index(comptime!((2 * j + step) * blocks + m));
                        let mut operand = Array::<Vector<F, N2>>::new(4usize);
                        #[unroll]
                        for i in 0..4usize {
                            operand[i] = held[i];
                        }
                        a.push(operand);
                    } else {
                        a.push(query_operand::<F, N2, N4>(&shared_q, at));
                    }
                }
                #[unroll]
                for n in 0..4usize {
                    let mut pair = Array::<Vector<F, N2>>::new(2usize);
                    pair[0] = Vector::reinterpret(b[n][2 * step]);
                    pair[1] = Vector::reinterpret(b[n][2 * step + 1]);
                    #[unroll]
                    for m in 0..blocks {
                        def.execute_inplace(a.index(m), &pair, logits.index_mut(comptime!(4 * m + n)));
                    }
                }
            }
        }
        if following > total {
            #[unroll]
            for m in 0..blocks {
                #[unroll]
                for n in 0..4usize {
                    let c = logits.index_mut(comptime!(4 * m + n));
                    #[unroll]
                    for i in 0..2usize {
                        let key = start + comptime!((8 * n + i) as u32) + 2u32 * quad;
                        let mut upper = c[0];
                        let mut lower = c[1];
                        upper[i] = select(key < total, c[0][i], f32::new(-1e30));
                        lower[i] = select(key < total, c[1][i], f32::new(-1e30));
                        c[0] = upper;
                        c[1] = lower;
                    }
                }
            }
        }

        // Softmax so far; the four threads of a row agree on its maximum. Weights become operands.
        let mut operands = Sequence::<Array<Vector<F, N2>>>::new();
        #[unroll]
        for m in 0..blocks {
            let mut first = Array::<Vector<F, N2>>::new(4usize);
            let mut second = Array::<Vector<F, N2>>::new(4usize);
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(2 * m + half);
                let mut peak = highest[at];
                #[unroll]
                for n in 0..4usize {
                    let c = logits.index(comptime!(4 * m + n));
                    peak = peak.max(c[half][0]);
                    peak = peak.max(c[half][1]);
                }
                peak = peak.max(plane_shuffle_xor(peak, 1u32));
                peak = peak.max(plane_shuffle_xor(peak, 2u32));
                let keep = power_of_2(highest[at] - peak);
                highest[at] = peak;
                let mut sum = weights[at] * keep;
                #[unroll]
                for n in 0..4usize {
                    let c = logits.index(comptime!(4 * m + n));
                    let x = power_of_2(c[half][0] - peak);
                    let y = power_of_2(c[half][1] - peak);
                    sum += x + y;
                    let mut pair = Vector::<F, N2>::empty();
                    pair[0] = F::cast_from(x);
                    pair[1] = F::cast_from(y);
                    if comptime!(n < 2) {
                        first[comptime!(2 * (n % 2) + half)] = pair;
                    } else {
                        second[comptime!(2 * (n % 2) + half)] = pair;
                    }
                }
                weights[at] = sum;
                // Most tiles raise no maximum.
                if keep < 1.0f32 {
                    #[unroll]
                    for block in 0..value_blocks {
                        let c = sums.index_mut(comptime!(m * value_blocks + block));
                        c[half] = c[half] * Vector::new(keep);
                    }
                }
            }
            operands.push(first);
            operands.push(second);
        }

        #[unroll]
        for step in 0..2usize {
            #[unroll]
            for part in 0..comptime!((dim_v / 16) as usize) {
                // Two blocks of 8 channels, tokens in pairs.
                let at = (value_base + comptime!(16 * step as u32 * step_v + 2 * part as u32)) as usize;
                let pairs = def.load_matrix::<Vector<F, N8>, N2>(
                    &shared_v.slice(at, at + 1),
                    MatrixIdent::B,
                    4usize,
                    true,
                );
                #[unroll]
                for block in 0..2usize {
                    let mut pair = Array::<Vector<F, N2>>::new(2usize);
                    pair[0] = pairs[2 * block];
                    pair[1] = pairs[2 * block + 1];
                    #[unroll]
                    for m in 0..blocks {
                        def.execute_inplace(
                            operands.index(comptime!(2 * m + step)),
                            &pair,
                            sums.index_mut(comptime!(m * value_blocks + 2 * part + block)),
                        );
                    }
                }
            }
        }
        start = following;
    }

    #[unroll]
    for m in 0..blocks {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * m + half);
            let mut sum = weights[at];
            sum += plane_shuffle_xor(sum, 1u32);
            sum += plane_shuffle_xor(sum, 2u32);
            let local = warp * comptime!(16 * blocks as u32) + comptime!((16 * m + 8 * half) as u32) + octet;
            let row = first_row + local;
            if is_whole {
                if row < rows {
                    let inverse = f32::new(1.0) / sum;
                    let head = kv_head * group + row / query_tokens;
                    let to = ((sequence * query_tokens + row % query_tokens) * query_heads + head) * dim_v;
                    #[unroll]
                    for block in 0..value_blocks {
                        let c = sums.index(comptime!(m * value_blocks + block));
                        #[unroll]
                        for i in 0..2usize {
                            let channel = 2u32 * quad + comptime!((8 * block + i) as u32);
                            out[(to + channel) as usize] = c[half][i] * inverse;
                        }
                    }
                }
            } else {
                let part_row = (cube - whole) * cube_rows + local;
                let to = part_row * dim_v;
                #[unroll]
                for block in 0..value_blocks {
                    let c = sums.index(comptime!(m * value_blocks + block));
                    #[unroll]
                    for i in 0..2usize {
                        let channel = 2u32 * quad + comptime!((8 * block + i) as u32);
                        part_sums[(to + channel) as usize] = c[half][i];
                    }
                }
                if quad == 0u32 {
                    part_weights[(2u32 * part_row) as usize] = highest[at];
                    part_weights[(2u32 * part_row + 1u32) as usize] = sum;
                }
            }
        }
    }
}
