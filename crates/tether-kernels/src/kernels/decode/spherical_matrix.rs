//! Decode attention over spherical codes on matrix units: CUDA's 16 x 8 x 16 product.
//!
//! Logits are queries times keys, as for numbers, with queries in the rows. Results are values times weights, with channels in the rows: so a step's weights
//! are operands as they come, and a product takes 16 channels for up to 8 queries.

use cubecl::cmma::MmaDefinition;
use cubecl::ir::FastMath;
use cubecl::prelude::*;

use super::lookup::{even_codes, fill, look_up, lookup_entries, odd_codes};
use super::merge::merge_warps;
use super::rows::{PastEnd, Pool, load_keys, load_scales, load_values, page_of, step_row};
use crate::kernels::spherical::{level_offset, rotate_shared};

/// Tokens of a step.
const STEP: u32 = 16;

/// Most rows of queries of a cube.
pub(crate) const ROWS: usize = 8;

/// As [`super::decode_matrix`], over spherical codes of 1, 2 or 4 bits. Queries are rotated first; results stay rotated and centred, and
/// [`super::combine_spherical`] undoes that. `channels` holds the keys' signs and scales, `levels` those of all bits.
#[cube(launch_unchecked, fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
pub(crate) fn decode_spherical_matrix<F: Float, S: Float, NK: Size, NV: Size>(
    q: &Array<F>,
    k: &Array<Vector<u32, NK>>,
    v: &Array<Vector<u32, NV>>,
    k_radii: &Array<S>,
    v_radii: &Array<S>,
    channels: &Array<f32>,
    levels: &Array<f32>,
    indptr: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    out: &mut Array<f32>,
    lse: &mut Array<f32>,
    scale: f32,
    page_heads: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] bits_k: u32,
    #[comptime] bits_v: u32,
    #[comptime] warps: u32,
    #[comptime] page_size: u32,
    #[comptime] rows: u32,
) {
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let size!(N2) = 2usize;
    let lane = UNIT_POS_X;
    let warp = UNIT_POS_Y;
    let quad = lane % 4;
    let octet = lane / 4;

    let kv_head = CUBE_POS_Y / row_blocks;
    let first_of_block = CUBE_POS_Y % row_blocks * rows;
    let sequence = CUBE_POS_Z;
    let query_heads = CUBE_COUNT_Y / row_blocks * group;
    let first_query = sequence * query_heads + kv_head * group + first_of_block;
    let at = kv_head / page_heads * CUBE_COUNT_Z + sequence;
    let pool = Pool {
        first_page: indptr[at as usize],
        page_size: page_size.runtime(),
        page_heads,
        head: kv_head % page_heads,
        length: lengths[at as usize],
    };

    let whole_pages = comptime!(page_size.is_multiple_of(STEP));

    let steps = pool.length.div_ceil(STEP);
    let steps_of_part = steps.div_ceil(CUBE_COUNT_X);
    let begin = CUBE_POS_X * steps_of_part;
    let mut end = begin + steps_of_part;
    if end > steps {
        end = steps;
    }

    // Words of a load, and loads of a token's row: keys over four threads, values over eight.
    let nk = NK::value();
    let nv = NV::value();
    let key_loads = comptime!((dim_k * bits_k / 32) as usize / 4 / nk);
    let value_loads = comptime!((dim_v * bits_v / 32) as usize / 8 / nv);
    let codes_k = comptime!(32 / bits_k);
    let codes_v = comptime!(32 / bits_v);
    // Register pairs of a load of keys, products of a load of values.
    let load_pairs = comptime!(nk * codes_k as usize / 2);
    let load_blocks = comptime!(nv * codes_v as usize / 2);

    let mut key_words = Array::<Vector<u32, NK>>::new(comptime!(2 * key_loads));
    let mut value_words = Array::<Vector<u32, NV>>::new(comptime!(4 * value_loads));
    let mut key_radii = Array::<S>::new(4usize);
    let mut value_radii = Array::<S>::new(4usize);
    let mut step = begin + warp;
    // Loads run a step ahead, and the page table two, so that a step waits for neither; the first ones meanwhile tables are made.
    let mut next_page = 0u32;
    if step < end {
        let token = step * STEP;
        let first = step_row(&pool, page_of(&pool, pages, token), token);
        next_page = page_of(&pool, pages, select(step + warps < end, step + warps, step) * STEP);
        load_keys(k, &mut key_words, &pool, pages, first, token, key_loads, whole_pages, PastEnd::Page);
        load_scales(k_radii, &mut key_radii, &pool, pages, first, token, whole_pages, PastEnd::Page);
        load_values(v, &mut value_words, &pool, pages, first, token, value_loads, whole_pages, PastEnd::Page);
        load_scales(v_radii, &mut value_radii, &pool, pages, first, token, whole_pages, PastEnd::Page);
    }
    // Keys and values of equal bits share a table; of two, the larger one begins at 0.
    let entries_k = comptime!(lookup_entries(bits_k));
    let entries_v = comptime!(lookup_entries(bits_v));
    let entries = comptime!(if bits_k == bits_v { entries_k } else { entries_k + entries_v });
    let first_k = comptime!(if bits_k < bits_v { entries_v as u32 } else { 0 });
    let first_v = comptime!(if bits_v < bits_k { entries_k as u32 } else { 0 });
    let mut table = SharedMemory::<Vector<F, N2>>::new(entries);
    fill(&mut table, levels, comptime!(level_offset(bits_k)), first_k, bits_k, comptime!(32 * warps));
    if comptime!(bits_k != bits_v) {
        fill(&mut table, levels, comptime!(level_offset(bits_v)), first_v, bits_v, comptime!(32 * warps));
    }
    let own_k = (lane << 2) | comptime!(4 * first_k);
    let own_v = (lane << 2) | comptime!(4 * first_v);

    // Rotated queries, each relative to its largest coordinate: no storage type is too narrow for them.
    let mut rotated = SharedMemory::<f32>::new(comptime!((rows * dim_k) as usize));
    let mut i = UNIT_POS;
    while i < rows * dim_k {
        let mut x = 0.0f32;
        if first_of_block + i / dim_k < group {
            x = f32::cast_from(q[(first_query * dim_k + i) as usize]);
        }
        rotated[i as usize] = x;
        i += comptime!(32 * warps);
    }
    rotate_shared(&mut rotated, channels, rows, dim_k, comptime!(32 * warps), false);
    let mut largest = f32::new(0.0);
    if octet < rows {
        let mut channel = quad;
        while channel < dim_k {
            largest = largest.max(rotated[(octet * dim_k + channel) as usize].abs());
            channel += 4;
        }
    }
    largest = largest.max(plane_shuffle_xor(largest, 1u32));
    largest = largest.max(plane_shuffle_xor(largest, 2u32));
    let to_stored = select(largest > 0.0f32, 1.0f32 / largest, 0.0f32);
    let to_logit = largest * scale;

    let zero = Vector::<F, N2>::new(F::from_int(0));
    // Queries, in the order in which keys will come.
    let mut queries = Sequence::<Array<Vector<F, N2>>>::new();
    #[unroll]
    for load in 0..key_loads {
        #[unroll]
        for step in 0..comptime!(load_pairs / 2) {
            let mut a = Array::<Vector<F, N2>>::new(4usize);
            a[1] = zero;
            a[3] = zero;
            #[unroll]
            for half in 0..2usize {
                let mut pair = zero;
                if octet < rows {
                    let channel = (comptime!(4 * load as u32) + quad) * comptime!(nk as u32 * codes_k)
                        + comptime!((2 * (2 * step + half)) as u32);
                    #[unroll]
                    for element in 0..2usize {
                        let x = rotated[(octet * dim_k + channel + comptime!(element as u32)) as usize];
                        pair[element] = F::cast_from(x * to_stored);
                    }
                }
                a[comptime!(2 * half)] = pair;
            }
            queries.push(a);
        }
    }

    let mut sums = Sequence::<Array<Vector<f32, N2>>>::new();
    #[unroll]
    for _ in 0..comptime!(value_loads * load_blocks) {
        let mut c = Array::<Vector<f32, N2>>::new(2usize);
        c[0] = Vector::new(0.0f32);
        c[1] = Vector::new(0.0f32);
        sums.push(c);
    }
    // Of the row that is the thread's octet.
    let mut highest = f32::new(-1e30);
    let mut weights = 0.0f32;

    while step < end {
        let token = step * STEP;
        let next = step + warps;
        let next_token = next * STEP;
        let next_first = step_row(&pool, next_page, next_token);

        // Logits of 8 tokens at a time: columns `2 quad, 2 quad + 1` of row `octet`.
        let mut logits = Array::<f32>::new(4usize);
        #[unroll]
        for block in 0..2usize {
            let mut c = Array::<Vector<f32, N2>>::new(2usize);
            c[0] = Vector::new(0.0f32);
            c[1] = Vector::new(0.0f32);
            #[unroll]
            for load in 0..key_loads {
                let words = key_words[block * key_loads + load];
                #[unroll]
                for s in 0..comptime!(load_pairs / 2) {
                    let mut b = Array::<Vector<F, N2>>::new(2usize);
                    #[unroll]
                    for half in 0..2usize {
                        let code = comptime!((2 * (2 * s + half)) as u32);
                        let word = words[comptime!((code / codes_k) as usize)];
                        b[half] = look_up(&table, word, own_k, comptime!(code % codes_k * bits_k), bits_k);
                    }
                    def.execute_inplace(queries.index(comptime!(load * (load_pairs / 2) + s)), &b, &mut c);
                }
            }
            #[unroll]
            for i in 0..2usize {
                let column = token + 2 * quad + comptime!((8 * block + i) as u32);
                let logit = c[0][i] * (to_logit * f32::cast_from(key_radii[comptime!(2 * block + i)]));
                logits[comptime!(block * 2 + i)] = select(column < pool.length, logit, f32::new(-1e30));
            }
        }
        if next < end {
            load_keys(
                k,
                &mut key_words,
                &pool,
                pages,
                next_first,
                next_token,
                key_loads,
                whole_pages,
                PastEnd::Page,
            );
            load_scales(
                k_radii,
                &mut key_radii,
                &pool,
                pages,
                next_first,
                next_token,
                whole_pages,
                PastEnd::Page,
            );
        }

        // Softmax so far; the four threads of a row agree on its maximum.
        let mut peak = highest;
        #[unroll]
        for i in 0..4usize {
            peak = peak.max(logits[i]);
        }
        peak = peak.max(plane_shuffle_xor(peak, 1u32));
        peak = peak.max(plane_shuffle_xor(peak, 2u32));
        if plane_any(peak > highest) {
            let keep = (highest - peak).exp();
            weights *= keep;
            highest = peak;
            // Sums have queries in their columns.
            let mut columns = Vector::<f32, N2>::empty();
            columns[0] = plane_shuffle(keep, 8 * quad);
            columns[1] = plane_shuffle(keep, 8 * quad + 4);
            #[unroll]
            for block in 0..comptime!(value_loads * load_blocks) {
                let c = sums.index_mut(block);
                c[0] = c[0] * columns;
                c[1] = c[1] * columns;
            }
        }
        let mut b = Array::<Vector<F, N2>>::new(2usize);
        #[unroll]
        for block in 0..2usize {
            let mut pair = Vector::<F, N2>::empty();
            #[unroll]
            for i in 0..2usize {
                let at = comptime!(2 * block + i);
                let weight = (logits[at] - peak).exp();
                weights += weight;
                // What lies past the list may have any radius.
                let column = token + 2 * quad + comptime!((8 * block + i) as u32);
                let radius = select(column < pool.length, f32::cast_from(value_radii[at]), 0.0f32);
                pair[i] = F::cast_from(weight * radius);
            }
            b[block] = pair;
        }

        #[unroll]
        for load in 0..value_loads {
            #[unroll]
            for w in 0..NV::value() {
                let words = (
                    value_words[load][w],
                    value_words[value_loads + load][w],
                    value_words[2 * value_loads + load][w],
                    value_words[3 * value_loads + load][w],
                );
                let even = (even_codes(words.0, words.1, bits_v), even_codes(words.2, words.3, bits_v));
                let odd = (odd_codes(words.0, words.1, bits_v), odd_codes(words.2, words.3, bits_v));
                #[unroll]
                for block in 0..comptime!(codes_v as usize / 2) {
                    let bit = comptime!(2 * block as u32 * bits_v);
                    let mut a = Array::<Vector<F, N2>>::new(4usize);
                    a[0] = look_up(&table, even.0, own_v, bit, bits_v);
                    a[1] = look_up(&table, odd.0, own_v, bit, bits_v);
                    a[2] = look_up(&table, even.1, own_v, bit, bits_v);
                    a[3] = look_up(&table, odd.1, own_v, bit, bits_v);
                    let sum = comptime!(load * load_blocks + w * (codes_v as usize / 2) + block);
                    def.execute_inplace(&a, &b, sums.index_mut(sum));
                }
            }
        }
        if next < end {
            load_values(
                v,
                &mut value_words,
                &pool,
                pages,
                next_first,
                next_token,
                value_loads,
                whole_pages,
                PastEnd::Page,
            );
            load_scales(
                v_radii,
                &mut value_radii,
                &pool,
                pages,
                next_first,
                next_token,
                whole_pages,
                PastEnd::Page,
            );
            next_page = page_of(&pool, pages, select(next + warps < end, next + warps, next) * STEP);
        }
        step = next;
    }

    let mut all = SharedMemory::<f32>::new(comptime!((warps * rows * dim_v) as usize));
    let mut tops = SharedMemory::<f32>::new(comptime!((warps * rows) as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((warps * rows) as usize));
    let mut sum = weights;
    sum += plane_shuffle_xor(sum, 1u32);
    sum += plane_shuffle_xor(sum, 2u32);
    if octet < rows && quad == 0u32 {
        tops[(warp * rows + octet) as usize] = highest;
        totals[(warp * rows + octet) as usize] = sum;
    }
    #[unroll]
    for load in 0..value_loads {
        #[unroll]
        for block in 0..load_blocks {
            let c = sums.index(comptime!(load * load_blocks + block));
            #[unroll]
            for i in 0..2usize {
                let query = 2 * quad + comptime!(i as u32);
                if query < rows {
                    let place = (warp * rows + query) * dim_v
                        + (comptime!(8 * load as u32) + octet) * comptime!(nv as u32 * codes_v)
                        + comptime!(2 * block as u32);
                    all[place as usize] = c[0][i];
                    all[(place + 1) as usize] = c[1][i];
                }
            }
        }
    }
    merge_warps(&all, &tops, &totals, out, lse, first_query, group - first_of_block, dim_v, rows, warps);
}
