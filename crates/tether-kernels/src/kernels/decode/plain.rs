//! Decode attention without matrix units and without planes: tiles of keys and values in shared memory.

use cubecl::prelude::*;

use super::options::weight_of;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;

/// Where a cube stands: its list, its rows and its part of the tokens.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Part {
    pub(super) kv_head: u32,
    pub(super) head: u32,
    pub(super) first_row: u32,
    pub(super) query_heads: u32,
    pub(super) first_page: u32,
    pub(super) begin: u32,
    pub(super) end: u32,
}

#[cube]
pub(super) fn part(
    indptr: &Array<u32>,
    lengths: &Array<u32>,
    page_heads: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) -> Part {
    let kv_head = CUBE_POS_Y / row_blocks;
    let list = kv_head / page_heads * CUBE_COUNT_Z + CUBE_POS_Z;
    let length = lengths[list as usize];
    let tiles = length.div_ceil(tile);
    let tiles_of_part = tiles.div_ceil(CUBE_COUNT_X);
    let begin = CUBE_POS_X * tiles_of_part * tile;
    let mut end = begin + tiles_of_part * tile;
    if end > length {
        end = length;
    }
    Part {
        kv_head,
        head: kv_head % page_heads,
        first_row: CUBE_POS_Y % row_blocks * rows,
        query_heads: CUBE_COUNT_Y / row_blocks * group,
        first_page: indptr[list as usize],
        begin,
        end,
    }
}

/// Row of token `token` in the pool.
#[cube]
pub(super) fn row_of(part: &Part, pages: &Array<u32>, token: u32, page_size: u32, page_heads: u32) -> u32 {
    let page = pages[(part.first_page + token / page_size) as usize];
    (page * page_size + token % page_size) * page_heads + part.head
}

/// Queries of the cube's rows, scaled; zero past the group.
#[cube]
pub(super) fn load_queries<F: Float>(
    q: &Array<F>,
    part: &Part,
    shared: &mut SharedMemory<f32>,
    scale: f32,
    group: u32,
    #[comptime] dim: u32,
    #[comptime] rows: u32,
) {
    let mut i = UNIT_POS_X;
    while i < rows * dim {
        let row = part.first_row + i / dim;
        let mut x = 0.0f32;
        if row < group {
            let at = (CUBE_POS_Z * part.query_heads + part.kv_head * group + row) * dim + i % dim;
            x = f32::cast_from(q[at as usize]) * scale;
        }
        shared[i as usize] = x;
        i += THREADS;
    }
}

/// A cube's running softmax: shared per row, and sums of this thread's elements.
#[derive(CubeType)]
pub(super) struct Running {
    pub(super) tops: SharedMemory<f32>,
    pub(super) totals: SharedMemory<f32>,
    keep: SharedMemory<f32>,
    pub(super) scores: SharedMemory<f32>,
    sums: Array<f32>,
}

#[cube]
pub(super) fn running(#[comptime] rows: u32, #[comptime] dim_v: u32, #[comptime] tile: u32) -> Running {
    let count = comptime!((rows * dim_v).div_ceil(THREADS) as usize);
    let mut tops = SharedMemory::<f32>::new(comptime!(rows as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!(rows as usize));
    let keep = SharedMemory::<f32>::new(comptime!(rows as usize));
    let scores = SharedMemory::<f32>::new(comptime!((rows * tile) as usize));
    let mut sums = Array::<f32>::new(count);
    for i in 0..count {
        sums[i] = 0.0f32;
    }
    if UNIT_POS_X < rows {
        tops[UNIT_POS_X as usize] = f32::new(-1e30);
        totals[UNIT_POS_X as usize] = 0.0f32;
    }
    Running { tops, totals, keep, scores, sums }
}

/// Takes a tile of `count` tokens into the running softmax.
#[cube]
pub(super) fn take_tile(
    state: &mut Running,
    queries: &SharedMemory<f32>,
    tile_k: &SharedMemory<f32>,
    tile_v: &SharedMemory<f32>,
    count: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) {
    sync_cube();
    let mut i = UNIT_POS_X;
    while i < rows * tile {
        let row = i / tile;
        let token = i % tile;
        let mut dot = f32::new(-1e30);
        if token < count {
            dot = f32::new(0.0);
            for d in 0..dim_k {
                dot += queries[(row * dim_k + d) as usize] * tile_k[(token * dim_k + d) as usize];
            }
        }
        state.scores[i as usize] = dot;
        i += THREADS;
    }
    take_scores(state, tile_v, count, dim_v, rows, tile, false);
}

/// Takes a tile whose logits are in `state.scores`. With a window, a row may see none of it.
#[cube]
pub(super) fn take_scores(
    state: &mut Running,
    tile_v: &SharedMemory<f32>,
    count: u32,
    #[comptime] dim_v: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
    #[comptime] windowed: bool,
) {
    sync_cube();
    if UNIT_POS_X < rows {
        let row = UNIT_POS_X;
        let old = state.tops[row as usize];
        let mut top = old;
        for token in 0..tile {
            top = top.max(state.scores[(row * tile + token) as usize]);
        }
        let keep = (old - top).exp();
        let mut total = state.totals[row as usize] * keep;
        for token in 0..tile {
            let weight = weight_of(state.scores[(row * tile + token) as usize], top, windowed);
            total += weight;
            state.scores[(row * tile + token) as usize] = weight;
        }
        state.tops[row as usize] = top;
        state.totals[row as usize] = total;
        state.keep[row as usize] = keep;
    }
    sync_cube();
    let elements = comptime!((rows * dim_v).div_ceil(THREADS));
    for e in 0..elements {
        let i = e * THREADS + UNIT_POS_X;
        if i < rows * dim_v {
            let row = i / dim_v;
            let mut sum = state.sums[e as usize] * state.keep[row as usize];
            for token in 0..count {
                sum += state.scores[(row * tile + token) as usize]
                    * tile_v[(token * dim_v + i % dim_v) as usize];
            }
            state.sums[e as usize] = sum;
        }
    }
    sync_cube();
}

/// Writes the part's result.
#[cube]
pub(super) fn finish<O: Float>(
    state: &Running,
    part: &Part,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    group: u32,
    #[comptime] dim_v: u32,
    #[comptime] rows: u32,
) {
    sync_cube();
    let elements = comptime!((rows * dim_v).div_ceil(THREADS));
    for e in 0..elements {
        let i = e * THREADS + UNIT_POS_X;
        let row = i / dim_v;
        if i < rows * dim_v && part.first_row + row < group {
            let total = state.totals[row as usize];
            let mut result = 0.0f32;
            let mut log_sum = f32::new(-1e30);
            if total > 0.0f32 {
                result = state.sums[e as usize] / total;
                log_sum = state.tops[row as usize] + total.ln();
            }
            let query_row = CUBE_POS_Z * part.query_heads + part.kv_head * group + part.first_row + row;
            let at = query_row * CUBE_COUNT_X + CUBE_POS_X;
            let channel = i % dim_v;
            out[(at * dim_v + channel) as usize] = O::cast_from(result);
            if channel == 0u32 {
                lse[at as usize] = log_sum;
            }
        }
    }
}

/// One query token over the paged tokens of a list. Cube x is the part of the list, cube y the key head (times blocks of query rows), cube z the sequence.
#[cube(launch_unchecked)]
pub(crate) fn decode_plain<F: Float, O: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
    indptr: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    scale: f32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) {
    let part = part(indptr, lengths, page_heads, group, row_blocks, rows, tile);
    let mut queries = SharedMemory::<f32>::new(comptime!((rows * dim_k) as usize));
    let mut tile_k = SharedMemory::<f32>::new(comptime!((tile * dim_k) as usize));
    let mut tile_v = SharedMemory::<f32>::new(comptime!((tile * dim_v) as usize));
    load_queries(q, &part, &mut queries, scale, group, dim_k, rows);
    let mut state = running(rows, dim_v, tile);
    let mut start = part.begin;
    while start < part.end {
        let mut count = part.end - start;
        if count > tile {
            count = tile.runtime();
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_k {
            let row = row_of(&part, pages, start + i / dim_k, page_size, page_heads);
            tile_k[i as usize] = f32::cast_from(k[(row * dim_k + i % dim_k) as usize]);
            i += THREADS;
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_v {
            let row = row_of(&part, pages, start + i / dim_v, page_size, page_heads);
            tile_v[i as usize] = f32::cast_from(v[(row * dim_v + i % dim_v) as usize]);
            i += THREADS;
        }
        take_tile(&mut state, &queries, &tile_k, &tile_v, count, dim_k, dim_v, rows, tile);
        start += tile;
    }
    finish(&state, &part, out, lse, group, dim_v, rows);
}

/// Code of channel `channel` of a row that begins at word `first` of `codes`.
#[cube]
fn code_at(codes: &Array<u32>, first: u32, channel: u32, #[comptime] dim: u32, #[comptime] bits: u32) -> f32 {
    if comptime!(bits == 4) {
        let half = comptime!(dim / 2);
        let high = channel / half;
        let byte = channel % half;
        let word = codes[(first + byte / 4) as usize];
        let code = (word >> (byte % 4 * 8 + high * 4)) & 15u32;
        f32::cast_from(code) - 8.0f32
    } else {
        let word = codes[(first + channel / 4) as usize];
        let code = ((word ^ 0x8080_8080u32) >> (channel % 4 * 8)) & 255u32;
        f32::cast_from(code) - 128.0f32
    }
}

/// [`decode_plain`] over codes with a scale for each token and head.
#[cube(launch_unchecked)]
pub(crate) fn decode_plain_codes<F: Float, O: Float>(
    q: &Array<F>,
    k: &Array<u32>,
    v: &Array<u32>,
    k_scales: &Array<f32>,
    v_scales: &Array<f32>,
    indptr: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    scale: f32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] bits: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) {
    let part = part(indptr, lengths, page_heads, group, row_blocks, rows, tile);
    let mut queries = SharedMemory::<f32>::new(comptime!((rows * dim_k) as usize));
    let mut tile_k = SharedMemory::<f32>::new(comptime!((tile * dim_k) as usize));
    let mut tile_v = SharedMemory::<f32>::new(comptime!((tile * dim_v) as usize));
    load_queries(q, &part, &mut queries, scale, group, dim_k, rows);
    let mut state = running(rows, dim_v, tile);
    let words_k = comptime!(dim_k * bits / 32);
    let words_v = comptime!(dim_v * bits / 32);
    let mut start = part.begin;
    while start < part.end {
        let mut count = part.end - start;
        if count > tile {
            count = tile.runtime();
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_k {
            let row = row_of(&part, pages, start + i / dim_k, page_size, page_heads);
            tile_k[i as usize] = code_at(k, row * words_k, i % dim_k, dim_k, bits) * k_scales[row as usize];
            i += THREADS;
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_v {
            let row = row_of(&part, pages, start + i / dim_v, page_size, page_heads);
            tile_v[i as usize] = code_at(v, row * words_v, i % dim_v, dim_v, bits) * v_scales[row as usize];
            i += THREADS;
        }
        take_tile(&mut state, &queries, &tile_k, &tile_v, count, dim_k, dim_v, rows, tile);
        start += tile;
    }
    finish(&state, &part, out, lse, group, dim_v, rows);
}
