//! Decode attention on matrix units: CUDA's 16 x 8 x 16 product, whose register layout the loads are made for.

use cubecl::cmma::MmaDefinition;
use cubecl::prelude::*;

use super::fragments::{key_channel, key_pairs, value_channel, value_pairs};
use super::merge::merge_warps;
use super::options::{HIDDEN, Options, hidden_units, is_hidden, shaped, weight_of};
use super::rows::{PastEnd, Pool, load_keys, load_scales, load_values, page_of, step_row};

/// Tokens of a step: the contraction length of the second product.
const STEP: u32 = 16;

/// The first step from `from` on, of every `warps`th, of which anything is seen; `end` or more when there is none. All threads of a warp agree.
#[cube]
fn seek(
    pool: &Pool,
    pages: &Array<u32>,
    row_positions: &Array<u32>,
    from: u32,
    end: u32,
    query: u32,
    window: u32,
    #[comptime] warps: u32,
    #[comptime] options: Options,
) -> u32 {
    let mut step = from;
    if comptime!(options.skips()) {
        let mut searching = 1u32.runtime();
        while step < end && searching > 0u32 {
            let wanted = step * STEP + UNIT_POS_X % STEP;
            let token = select(wanted < pool.length, wanted, pool.length - 1u32);
            let row = step_row(pool, page_of(pool, pages, token), token);
            if plane_any(!is_hidden(query, row_positions[row as usize], window)) {
                searching -= 1u32;
            } else {
                step += warps;
            }
        }
    }
    step
}

/// One query token over the paged tokens of a list. A cube has `warps` warps that take steps of 16 tokens in turn and are merged at its end; cube
/// x is the part of the list, cube y the key head (times blocks of query rows), cube z the sequence.
///
/// `half_precision` says that `F` is f16 and not bf16. `bits` is 16 for keys and values of type `F`, else they are codes with a scale for each token and head. Loads are `NK` and `NV` words.
///
/// With options, `row_positions` are those of the pool's rows, `token_positions` of the queries' tokens, and `per_head` holds the query heads' slopes, and then their sinks.
#[cube]
pub(super) fn attend_steps<F: Float, O: Float, NK: Size, NV: Size>(
    q: &Array<F>,
    k: &Array<Vector<u32, NK>>,
    v: &Array<Vector<u32, NV>>,
    k_scales: &Array<f32>,
    v_scales: &Array<f32>,
    indptr: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    row_positions: &Array<u32>,
    token_positions: &Array<u32>,
    per_head: &Array<f32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    scale: f32,
    softcap: f32,
    window: u32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] bits: u32,
    #[comptime] half_precision: bool,
    #[comptime] warps: u32,
    #[comptime] whole_pages: bool,
    #[comptime] rows: u32,
    #[comptime] options: Options,
) {
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let size!(N2) = 2usize;
    let lane = UNIT_POS_X;
    let warp = UNIT_POS_Y;
    let quad = lane % 4;
    let octet = lane / 4;

    let kv_head = CUBE_POS_Y / row_blocks;
    let first_row = CUBE_POS_Y % row_blocks * 16;
    let sequence = CUBE_POS_Z;
    let query_heads = CUBE_COUNT_Y / row_blocks * group;
    let list = kv_head / page_heads * CUBE_COUNT_Z + sequence;
    let head = kv_head % page_heads;
    let length = lengths[list as usize];
    let first_page = indptr[list as usize];

    let steps = length.div_ceil(STEP);
    let first_step =
        if comptime!(options.trims()) { hidden_units(length, window, STEP) } else { 0u32.runtime() };
    let steps_of_part = (steps - first_step).div_ceil(CUBE_COUNT_X);
    let begin = first_step + CUBE_POS_X * steps_of_part;
    let mut end = begin + steps_of_part;
    if end > steps {
        end = steps;
    }

    // Words of a load.
    let nk = NK::value();
    let nv = NV::value();
    // Loads of a token's row: keys over four threads, values over eight.
    let key_loads = comptime!((dim_k * bits / 32) as usize / 4 / nk);
    let value_loads = comptime!((dim_v * bits / 32) as usize / 8 / nv);
    let load_pairs = comptime!(nk * (32 / bits) as usize / 2);
    let load_elements = comptime!(nv * (32 / bits) as usize);
    let wide = comptime!(rows > 8);

    // Queries, in the order in which keys will come. Rows past the group are zero.
    let mut queries = Sequence::<Array<Vector<F, N2>>>::new();
    #[unroll]
    for load in 0..key_loads {
        #[unroll]
        for step in 0..comptime!(load_pairs / 2) {
            let mut a = Array::<Vector<F, N2>>::new(4usize);
            #[unroll]
            for register in 0..4usize {
                let mut pair = Vector::<F, N2>::empty();
                let row = first_row + octet + comptime!(register as u32 % 2 * 8);
                let index = comptime!((2 * step + register / 2) as u32);
                #[unroll]
                for element in 0..2usize {
                    let channel = key_channel(
                        quad,
                        comptime!(load as u32),
                        index,
                        comptime!(element as u32),
                        comptime!(nk as u32),
                        bits,
                        dim_k,
                    );
                    pair[element] = F::from_int(0);
                    if row < group {
                        let at = (sequence * query_heads + kv_head * group + row) * dim_k + channel;
                        pair[element] = q[at as usize];
                    }
                }
                a[register] = pair;
            }
            queries.push(a);
        }
    }

    let mut sums = Sequence::<Array<Vector<f32, N2>>>::new();
    #[unroll]
    for _ in 0..comptime!(value_loads * load_elements) {
        let mut c = Array::<Vector<f32, N2>>::new(2usize);
        c[0] = Vector::new(0.0f32);
        c[1] = Vector::new(0.0f32);
        sums.push(c);
    }
    let mut highest = Array::<f32>::new(2usize);
    let mut weights = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        highest[half] = f32::new(HIDDEN);
        weights[half] = 0.0f32;
    }
    // Of rows `octet` and `octet + 8`.
    let mut slopes = Array::<f32>::new(2usize);
    if comptime!(options.alibi || options.sinks) {
        #[unroll]
        for half in 0..2usize {
            let row = first_row + octet + comptime!(8 * half as u32);
            let query_head = kv_head * group + row;
            slopes[half] = 0.0f32;
            if row < group {
                if comptime!(options.alibi) {
                    slopes[half] = per_head[query_head as usize];
                }
                // A sink is a token that has no value: what one warp's rows start with, and of a row's four threads one.
                if comptime!(options.sinks) {
                    let sink = per_head[(query_heads + query_head) as usize];
                    highest[half] = select(warp == 0u32, sink, f32::new(HIDDEN));
                    weights[half] = select(warp == 0u32 && quad == 0u32, 1.0f32, 0.0f32);
                }
            }
        }
    }

    let pool = Pool { first_page, page_size, page_heads, head, length };
    let mut key_words = Array::<Vector<u32, NK>>::new(comptime!(2 * key_loads));
    let mut value_words = Array::<Vector<u32, NV>>::new(comptime!(4 * value_loads));
    let mut key_factors = Array::<f32>::new(4usize);
    let mut value_factors = Array::<f32>::new(4usize);
    let query = if comptime!(options.positions) { token_positions[sequence as usize] } else { length - 1u32 };
    let mut positions = Array::<u32>::new(4usize);
    let mut step = seek(&pool, pages, row_positions, begin + warp, end, query, window, warps, options);
    // Loads run a step ahead, and the page table two, so that a step waits for neither.
    let mut next_page = 0u32;
    if step < end {
        let first = step_row(&pool, page_of(&pool, pages, step * STEP), step * STEP);
        let ahead = select(step + warps < end, step + warps, step);
        next_page = page_of(&pool, pages, ahead * STEP);
        load_keys(k, &mut key_words, &pool, pages, first, step * STEP, key_loads, whole_pages, PastEnd::Last);
        load_values(
            v,
            &mut value_words,
            &pool,
            pages,
            first,
            step * STEP,
            value_loads,
            whole_pages,
            PastEnd::Last,
        );
        if comptime!(options.reads_positions()) {
            load_scales(
                row_positions,
                &mut positions,
                &pool,
                pages,
                first,
                step * STEP,
                whole_pages,
                PastEnd::Last,
            );
        }
        if comptime!(bits < 16) {
            load_scales(
                k_scales,
                &mut key_factors,
                &pool,
                pages,
                first,
                step * STEP,
                whole_pages,
                PastEnd::Last,
            );
            load_scales(
                v_scales,
                &mut value_factors,
                &pool,
                pages,
                first,
                step * STEP,
                whole_pages,
                PastEnd::Last,
            );
        }
    }
    while step < end {
        let token = step * STEP;
        let next = seek(&pool, pages, row_positions, step + warps, end, query, window, warps, options);
        if comptime!(options.skips()) {
            next_page = page_of(&pool, pages, select(next < end, next, step) * STEP);
        }
        let next_first = step_row(&pool, next_page, next * STEP);

        // Logits of 8 tokens at a time: columns `2 quad, 2 quad + 1` of rows `octet, octet + 8`.
        let mut logits = Array::<f32>::new(8usize);
        #[unroll]
        for block in 0..2usize {
            let mut c = Array::<Vector<f32, N2>>::new(2usize);
            c[0] = Vector::new(0.0f32);
            c[1] = Vector::new(0.0f32);
            #[unroll]
            for load in 0..key_loads {
                let pairs =
                    key_pairs::<F, NK, N2>(&key_words[block * key_loads + load], bits, half_precision);
                #[unroll]
                for s in 0..comptime!(load_pairs / 2) {
                    let mut b = Array::<Vector<F, N2>>::new(2usize);
                    b[0] = pairs[2 * s];
                    b[1] = pairs[2 * s + 1];
                    def.execute_inplace(queries.index(comptime!(load * (load_pairs / 2) + s)), &b, &mut c);
                }
            }
            #[unroll]
            for i in 0..4usize {
                let column = token + 2 * quad + comptime!((8 * block + i % 2) as u32);
                let mut factor = scale;
                if comptime!(bits < 16) {
                    factor *= key_factors[comptime!(2 * block + i % 2)];
                }
                let mut logit = c[i / 2][i % 2] * factor;
                if comptime!(options != Options::default()) {
                    let position =
                        if comptime!(options.positions) { positions[2 * block + i % 2] } else { column };
                    logit = shaped(logit, query, position, slopes[i / 2], softcap, window, options);
                }
                logits[comptime!(i / 2 * 4 + block * 2 + i % 2)] =
                    select(column < length, logit, f32::new(HIDDEN));
            }
        }

        if next < end {
            load_keys(
                k,
                &mut key_words,
                &pool,
                pages,
                next_first,
                next * STEP,
                key_loads,
                whole_pages,
                PastEnd::Last,
            );
            if comptime!(options.reads_positions()) {
                load_scales(
                    row_positions,
                    &mut positions,
                    &pool,
                    pages,
                    next_first,
                    next * STEP,
                    whole_pages,
                    PastEnd::Last,
                );
            }
            if comptime!(bits < 16) {
                load_scales(
                    k_scales,
                    &mut key_factors,
                    &pool,
                    pages,
                    next_first,
                    next * STEP,
                    whole_pages,
                    PastEnd::Last,
                );
            }
        }

        // Softmax so far, per row; the four threads of a row agree on its maximum.
        let mut a = Array::<Vector<F, N2>>::new(4usize);
        a[1] = Vector::new(F::from_int(0));
        a[3] = Vector::new(F::from_int(0));
        #[unroll]
        for half in 0..comptime!(if wide { 2usize } else { 1usize }) {
            let at = comptime!(4 * half);
            let mut peak = highest[half];
            #[unroll]
            for i in 0..4usize {
                peak = peak.max(logits[at + i]);
            }
            peak = peak.max(plane_shuffle_xor(peak, 1u32));
            peak = peak.max(plane_shuffle_xor(peak, 2u32));
            let keep = (highest[half] - peak).exp();
            highest[half] = peak;
            let mut sum = weights[half] * keep;
            #[unroll]
            for block in 0..2usize {
                let mut pair = Vector::<F, N2>::empty();
                #[unroll]
                for i in 0..2usize {
                    let weight = weight_of(logits[at + 2 * block + i], peak, options.window);
                    sum += weight;
                    if comptime!(bits < 16) {
                        pair[i] = F::cast_from(weight * value_factors[2 * block + i]);
                    } else {
                        pair[i] = F::cast_from(weight);
                    }
                }
                a[comptime!(2 * block + half)] = pair;
            }
            weights[half] = sum;
            #[unroll]
            for block in 0..comptime!(value_loads * load_elements) {
                let c = sums.index_mut(block);
                c[half] = c[half] * Vector::new(keep);
            }
        }

        #[unroll]
        for load in 0..value_loads {
            let first = value_pairs::<F, NV, N2>(
                &value_words[load],
                &value_words[value_loads + load],
                bits,
                half_precision,
            );
            let second = value_pairs::<F, NV, N2>(
                &value_words[2 * value_loads + load],
                &value_words[3 * value_loads + load],
                bits,
                half_precision,
            );
            #[unroll]
            for element in 0..load_elements {
                let mut b = Array::<Vector<F, N2>>::new(2usize);
                b[0] = first[element];
                b[1] = second[element];
                def.execute_inplace(&a, &b, sums.index_mut(comptime!(load * load_elements + element)));
            }
        }
        if next < end {
            load_values(
                v,
                &mut value_words,
                &pool,
                pages,
                next_first,
                next * STEP,
                value_loads,
                whole_pages,
                PastEnd::Last,
            );
            if comptime!(bits < 16) {
                load_scales(
                    v_scales,
                    &mut value_factors,
                    &pool,
                    pages,
                    next_first,
                    next * STEP,
                    whole_pages,
                    PastEnd::Last,
                );
            }
            if comptime!(!options.skips()) {
                let ahead = select(next + warps < end, next + warps, next);
                next_page = page_of(&pool, pages, ahead * STEP);
            }
        }
        step = next;
    }

    let mut all = SharedMemory::<f32>::new(comptime!((warps * rows * dim_v) as usize));
    let mut tops = SharedMemory::<f32>::new(comptime!((warps * rows) as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((warps * rows) as usize));
    #[unroll]
    for half in 0..comptime!(if wide { 2usize } else { 1usize }) {
        let mut sum = weights[half];
        sum += plane_shuffle_xor(sum, 1u32);
        sum += plane_shuffle_xor(sum, 2u32);
        let row = octet + comptime!(8 * half as u32);
        if row < rows {
            let place = warp * rows + row;
            if quad == 0u32 {
                tops[place as usize] = highest[half];
                totals[place as usize] = sum;
            }
            #[unroll]
            for load in 0..value_loads {
                #[unroll]
                for element in 0..load_elements {
                    let c = sums.index(comptime!(load * load_elements + element));
                    #[unroll]
                    for i in 0..2usize {
                        let column = 2 * quad + i as u32;
                        let channel = value_channel(
                            column,
                            comptime!(load as u32),
                            comptime!(element as u32),
                            comptime!(nv as u32),
                            bits,
                            dim_v,
                        );
                        all[(place * dim_v + channel) as usize] = c[half][i];
                    }
                }
            }
        }
    }
    let first_query = sequence * query_heads + kv_head * group + first_row;
    merge_warps(&all, &tops, &totals, out, lse, first_query, group - first_row, dim_v, rows, warps);
}
