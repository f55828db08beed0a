//! Block attention on matrix units: CUDA's 16 x 8 x 16 product.
//!
//! Queries and keys come out of shared memory in whole 16-byte words: which channel sits where in an operand is free as long as the two agree,
//! so a thread's word of 8 channels serves two steps of the contraction. Values are transposed on the way. Weights are powers of 2, which
//! is what the hardware raises; one multiplication and subtraction in one instruction makes an exponent of a product of query and key.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use tether_core::EMPTY_LSE;

use super::tiles::{
    Pages, STAGES, TILE, clear_padding, copies, copy_tile, key_step, look_up, padded, query_operand,
    value_step,
};
use super::work::{WHOLE, bound, item, number, part_row, query_row, write_if};

/// The power of e that a power of 2 is.
const LN_2: f32 = std::f32::consts::LN_2;

/// In place of a product that a row does not see; and less than every product that it sees, but more than that.
const MASKED: f32 = -1e30;
const LOWEST: f32 = -1e29;

/// By how much, to base 2, a row's maximum may pass what weights are relative to: they stay far from what 16 bits hold.
const SLACK: f32 = 8.0;

/// One instruction, where an exponential is several.
#[cube]
fn power_of_2(x: f32) -> f32 {
    f32::new(2.0).powf(x)
}

/// Softmax attention of items of `warps * blocks * 16` rows over tiles of 32 keys, an item a cube. Keys lie in `key_pages`, values in
/// `value_pages`, `page_heads` heads a page. `dim_k` and `dim_v` are multiples of 16.
///
/// Queries are multiplied by `query_factor` and stored as `F`, their products with keys by `logit_factor`, which is not negative; both together are the scale of
/// the logits to base 2. An item that has a stretch of its rows' keys only leaves its partial result for [`super::combine_blocks`]. The queries of `held` steps of 32 channels stay in registers, the others in shared
/// memory.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
pub(crate) fn attend_matrix<Q: Float, F: Float, O: Float, N2: Size, N4: Size, N8: Size>(
    q: &Array<Vector<Q, N2>>,
    keys: &Array<Vector<u32, N4>>,
    values: &Array<Vector<F, N8>>,
    key_pages: &Array<u32>,
    value_pages: &Array<u32>,
    items: &Array<u32>,
    out: &mut Array<Vector<O, N2>>,
    lse: &mut Array<f32>,
    part_out: &mut Array<Vector<f32, N2>>,
    part_lse: &mut Array<f32>,
    cubes: u32,
    query_factor: f32,
    logit_factor: f32,
    page_heads: u32,
    group: u32,
    query_heads: u32,
    #[comptime] one_table: bool,
    #[comptime] page_size: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] warps: u32,
    #[comptime] blocks: usize,
    #[comptime] held: usize,
    #[comptime] with_lse: bool,
) {
    let threads = comptime!(warps * 32);
    let cube_rows = comptime!(warps * 16 * blocks as u32);
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let row_k = comptime!(dim_k / 8);
    let row_v = comptime!(dim_v / 8);
    let channels = comptime!(padded(dim_k));
    let row_q = comptime!(channels / 8);
    let step_k = comptime!(key_step(dim_k));
    let step_v = comptime!(value_step(dim_v));
    let mut shared_q =
        SharedMemory::<Vector<u32, N4>>::new_aligned(comptime!((cube_rows * row_q) as usize), 16usize);
    let mut shared_k =
        SharedMemory::<Vector<u32, N4>>::new_aligned(comptime!((STAGES * TILE * step_k) as usize), 16usize);
    let mut shared_v =
        SharedMemory::<Vector<F, N8>>::new_aligned(comptime!((STAGES * TILE * step_v) as usize), 16usize);

    let lane = UNIT_POS_X % 32;
    let warp = UNIT_POS_X / 32;
    let quad = lane % 4;
    let octet = lane / 4;
    let item = item(items, number(cubes));

    // Queries to shared memory as whole operands: blocks of 16 rows, then halves of 32 channels, then lanes.
    let mut index = UNIT_POS_X;
    while index < comptime!(cube_rows * row_q) {
        let place = index % 32;
        let operand = index / 32 % comptime!(channels / 16);
        let upper = item.first_row + index / comptime!(2 * channels) * 16 + place / 4;
        let channel = operand / 2 * 32 + place % 4 * 8 + operand % 2 * 4;
        let mut word = Vector::<u32, N4>::new(0u32);
        if channel < dim_k {
            #[unroll]
            for half in 0..2usize {
                let row = (upper + comptime!(8 * half as u32)).min(item.rows - 1u32);
                let from = query_row(&item, row, group, query_heads) * comptime!(dim_k / 2) + channel / 2;
                #[unroll]
                for i in 0..2usize {
                    let numbers = q[(from + i as u32) as usize];
                    let mut pair = Vector::<F, N2>::empty();
                    pair[0] = F::cast_from(f32::cast_from(numbers[0]) * query_factor);
                    pair[1] = F::cast_from(f32::cast_from(numbers[1]) * query_factor);
                    word[comptime!(2 * i + half)] = u32::reinterpret(pair);
                }
            }
        }
        shared_q[index as usize] = word;
        index += threads;
    }
    clear_padding(&mut shared_k, dim_k, threads);

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
        highest[i] = f32::new(LOWEST);
        weights[i] = 0.0f32;
    }

    // What the warp's first row sees whole, and what its last row sees at all: nothing where the warp has no rows.
    let warp_row = item.first_row + warp * comptime!(16 * blocks as u32);
    let unmasked = bound(&item, warp_row, group);
    let reached = bound(&item, warp_row + comptime!(16 * blocks as u32 - 1), group);
    let reached = select(warp_row < item.rows, reached, 0u32);
    let pages = Pages {
        first_page: item.first_page,
        last: item.end - 1u32,
        page_heads,
        head: item.kv_head % page_heads,
    };
    let mut start = item.begin;
    let end = item.end;
    // Every thread arrives once a tile, and its copies with it. Whoever waits for a tile knows that all have done with the one before the
    // last, whose place the next tile takes.
    let arrived = Barrier::shared(threads, UNIT_POS_X == 0u32);
    let query_base = warp * comptime!(blocks as u32 * 2 * channels) + lane;
    let mut held_queries = Sequence::<Array<Vector<F, N2>>>::new();
    #[unroll]
    for j in 0..held {
        #[unroll]
        for step in 0..2usize {
            #[unroll]
            for m in 0..blocks {
                held_queries.push(query_operand::<F, N2, N4>(
                    &shared_q,
                    query_base + comptime!((2 * channels) * m as u32 + 64 * j as u32 + 32 * step as u32),
                ));
            }
        }
    }
    let mut stage = 0u32;
    let mut phase = 0u32;
    // Where keys and values lie side by side, rows are looked up once.
    let same_rows = comptime!(one_table && row_k == row_v);
    let mut key_rows = Array::<u32>::new(comptime!(copies(row_k, threads)));
    let mut value_rows = Array::<u32>::new(comptime!(copies(row_v, threads)));
    if start < end {
        look_up(key_pages, &mut key_rows, &pages, start, page_size, row_k, threads);
        if comptime!(!same_rows) {
            look_up(value_pages, &mut value_rows, &pages, start, page_size, row_v, threads);
        }
        copy_tile(keys, &mut shared_k, &key_rows, 0u32, row_k, step_k, threads, 4u32);
        if comptime!(same_rows) {
            copy_tile(values, &mut shared_v, &key_rows, 0u32, row_v, step_v, threads, 8u32);
        } else {
            copy_tile(values, &mut shared_v, &value_rows, 0u32, row_v, step_v, threads, 8u32);
        }
        arrived.commit_copy_async();
        let _ = arrived.arrive();
        look_up(key_pages, &mut key_rows, &pages, start + TILE, page_size, row_k, threads);
        if comptime!(!same_rows) {
            look_up(value_pages, &mut value_rows, &pages, start + TILE, page_size, row_v, threads);
        }
    }
    while start < end {
        arrived.wait_parity(phase);
        phase = 1u32 - phase;
        let base = stage * TILE;
        stage = select(stage == comptime!(STAGES - 1), 0u32, stage + 1u32);
        let following = start + TILE;
        if following < end {
            copy_tile(keys, &mut shared_k, &key_rows, stage * TILE, row_k, step_k, threads, 4u32);
            if comptime!(same_rows) {
                copy_tile(values, &mut shared_v, &key_rows, stage * TILE, row_v, step_v, threads, 8u32);
            } else {
                copy_tile(values, &mut shared_v, &value_rows, stage * TILE, row_v, step_v, threads, 8u32);
            }
            arrived.commit_copy_async();
            let _ = arrived.arrive();
            look_up(key_pages, &mut key_rows, &pages, following + TILE, page_size, row_k, threads);
            if comptime!(!same_rows) {
                look_up(value_pages, &mut value_rows, &pages, following + TILE, page_size, row_v, threads);
            }
        }
        // A warp whose rows see nothing of the tile brings keys for the others.
        if start < reached {
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
            for j in 0..comptime!((channels / 32) as usize) {
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
                        let at = query_base
                            + comptime!((2 * channels) * m as u32 + 64 * j as u32 + 32 * step as u32);
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
            if following > unmasked {
                #[unroll]
                for m in 0..blocks {
                    #[unroll]
                    for half in 0..2usize {
                        let row = warp_row + comptime!((16 * m + 8 * half) as u32) + octet;
                        let seen = bound(&item, row, group);
                        #[unroll]
                        for n in 0..4usize {
                            let c = logits.index_mut(comptime!(4 * m + n));
                            let mut pair = c[half];
                            #[unroll]
                            for i in 0..2usize {
                                let key = start + comptime!((8 * n + i) as u32) + 2u32 * quad;
                                pair[i] = select(key < seen, c[half][i], f32::new(MASKED));
                            }
                            c[half] = pair;
                        }
                    }
                }
            }

            // Softmax so far; the four threads of a row agree on its maximum. All rows at once, so that none waits for another.
            let mut peaks = Array::<f32>::new(comptime!(2 * blocks));
            #[unroll]
            for at in 0..comptime!(2 * blocks) {
                let mut peak = highest[at];
                #[unroll]
                for n in 0..4usize {
                    let c = logits.index(comptime!(at / 2 * 4 + n));
                    peak = peak.max(c[at % 2][0]);
                    peak = peak.max(c[at % 2][1]);
                }
                peaks[at] = peak;
            }
            #[unroll]
            for distance in 0..2u32 {
                #[unroll]
                for at in 0..comptime!(2 * blocks) {
                    peaks[at] = peaks[at].max(plane_shuffle_xor(peaks[at], comptime!(1 + distance)));
                }
            }
            // Any number near a row's maximum serves as well: what it would have to be raised by little, it is not raised by.
            let mut raised = false;
            #[unroll]
            for at in 0..comptime!(2 * blocks) {
                let above = (peaks[at] - highest[at]) * logit_factor > f32::new(SLACK);
                peaks[at] = select(above, peaks[at], highest[at]);
                raised = raised || above;
            }
            if raised {
                #[unroll]
                for at in 0..comptime!(2 * blocks) {
                    let keep = power_of_2((highest[at] - peaks[at]) * logit_factor);
                    highest[at] = peaks[at];
                    weights[at] *= keep;
                    #[unroll]
                    for block in 0..value_blocks {
                        let c = sums.index_mut(comptime!(at / 2 * value_blocks + block));
                        c[at % 2] = c[at % 2] * Vector::new(keep);
                    }
                }
            }
            // Weights become operands.
            let mut operands = Sequence::<Array<Vector<F, N2>>>::new();
            #[unroll]
            for m in 0..blocks {
                let mut first = Array::<Vector<F, N2>>::new(4usize);
                let mut second = Array::<Vector<F, N2>>::new(4usize);
                #[unroll]
                for half in 0..2usize {
                    let at = comptime!(2 * m + half);
                    let top = highest[at] * logit_factor;
                    let mut sum = weights[at];
                    #[unroll]
                    for n in 0..4usize {
                        let c = logits.index(comptime!(4 * m + n));
                        let x = power_of_2(c[half][0] * logit_factor - top);
                        let y = power_of_2(c[half][1] * logit_factor - top);
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
            let row = warp_row + comptime!((16 * m + 8 * half) as u32) + octet;
            if row < item.rows {
                let inverse = f32::new(1.0) / select(sum > 0.0f32, sum, f32::new(1.0));
                let log_sum = select(
                    sum > 0.0f32,
                    highest[at] * logit_factor * f32::new(LN_2) + sum.ln(),
                    f32::new(EMPTY_LSE),
                );
                if item.parts == WHOLE {
                    let to = query_row(&item, row, group, query_heads);
                    #[unroll]
                    for block in 0..value_blocks {
                        let c = sums.index(comptime!(m * value_blocks + block));
                        let channels = quad + comptime!(4 * block as u32);
                        out[(to * comptime!(dim_v / 2) + channels) as usize] =
                            Vector::cast_from(c[half] * Vector::new(inverse));
                    }
                    if comptime!(with_lse) {
                        write_if(quad == 0u32, lse, to, log_sum);
                    }
                } else {
                    let to = part_row(&item, row);
                    #[unroll]
                    for block in 0..value_blocks {
                        let c = sums.index(comptime!(m * value_blocks + block));
                        let channels = quad + comptime!(4 * block as u32);
                        part_out[(to * comptime!(dim_v / 2) + channels) as usize] =
                            c[half] * Vector::new(inverse);
                    }
                    write_if(quad == 0u32, part_lse, to, log_sum);
                }
            }
        }
    }
}
