//! [`super::decode_plain`] with options.

use cubecl::prelude::*;

use super::options::{HIDDEN, Options, hidden_units, is_hidden, shaped};
use super::plain::{Part, Running, THREADS, finish, load_queries, part, row_of, running, take_scores};

/// The cube's part of what a window leaves of a list of `length` tokens.
#[cube]
fn part_of_window(part: Part, length: u32, window: u32, #[comptime] tile: u32) -> Part {
    let hidden = hidden_units(length, window, tile);
    let tiles_of_part = (length.div_ceil(tile) - hidden).div_ceil(CUBE_COUNT_X);
    let begin = (hidden + CUBE_POS_X * tiles_of_part) * tile;
    let mut end = begin + tiles_of_part * tile;
    if end > length {
        end = length;
    }
    Part {
        kv_head: part.kv_head,
        head: part.head,
        first_row: part.first_row,
        query_heads: part.query_heads,
        first_page: part.first_page,
        begin,
        end,
    }
}

/// What a row starts with: nothing, or its sink, which is a token that has no value.
#[cube]
fn take_sinks(state: &mut Running, part: &Part, per_head: &Array<f32>, group: u32, #[comptime] rows: u32) {
    if UNIT_POS_X < rows && part.first_row + UNIT_POS_X < group {
        let head = part.kv_head * group + part.first_row + UNIT_POS_X;
        state.tops[UNIT_POS_X as usize] = per_head[(part.query_heads + head) as usize];
        state.totals[UNIT_POS_X as usize] = 1.0f32;
    }
}

/// Slopes of the cube's rows.
#[cube]
fn load_slopes(
    slopes: &mut SharedMemory<f32>,
    part: &Part,
    per_head: &Array<f32>,
    group: u32,
    #[comptime] rows: u32,
) {
    if UNIT_POS_X < rows && part.first_row + UNIT_POS_X < group {
        let head = part.kv_head * group + part.first_row + UNIT_POS_X;
        slopes[UNIT_POS_X as usize] = per_head[head as usize];
    }
}

/// As [`super::decode_plain`]. `row_positions` are those of the pool's rows, `token_positions` of the queries' tokens; `per_head` holds the query heads'
/// slopes, and then their sinks.
#[cube(launch_unchecked)]
pub(crate) fn decode_plain_options<F: Float, O: Float>(
    q: &Array<F>,
    k: &Array<F>,
    v: &Array<F>,
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
    #[comptime] rows: u32,
    #[comptime] tile: u32,
    #[comptime] options: Options,
) {
    let whole = part(indptr, lengths, page_heads, group, row_blocks, rows, tile);
    let length = lengths[(whole.kv_head / page_heads * CUBE_COUNT_Z + CUBE_POS_Z) as usize];
    let part = if comptime!(options.trims()) { part_of_window(whole, length, window, tile) } else { whole };
    let query =
        if comptime!(options.positions) { token_positions[CUBE_POS_Z as usize] } else { length - 1u32 };
    let mut queries = SharedMemory::<f32>::new(comptime!((rows * dim_k) as usize));
    let mut tile_k = SharedMemory::<f32>::new(comptime!((tile * dim_k) as usize));
    let mut tile_v = SharedMemory::<f32>::new(comptime!((tile * dim_v) as usize));
    let mut slopes = SharedMemory::<f32>::new(comptime!(rows as usize));
    let mut tokens = SharedMemory::<u32>::new(comptime!(tile as usize));
    load_queries(q, &part, &mut queries, scale, group, dim_k, rows);
    let mut state = running(rows, dim_v, tile);
    if comptime!(options.sinks) {
        take_sinks(&mut state, &part, per_head, group, rows);
    }
    if comptime!(options.alibi) {
        load_slopes(&mut slopes, &part, per_head, group, rows);
    }
    let mut start = part.begin;
    while start < part.end {
        let mut count = part.end - start;
        if count > tile {
            count = tile.runtime();
        }
        if comptime!(options.by_position()) {
            if UNIT_POS_X < count {
                let mut position = start + UNIT_POS_X;
                if comptime!(options.positions) {
                    position = row_positions[row_of(&part, pages, position, page_size, page_heads) as usize];
                }
                tokens[UNIT_POS_X as usize] = position;
            }
            sync_cube();
        }
        let mut seen = count;
        if comptime!(options.skips()) {
            for token in 0..count {
                if is_hidden(query, tokens[token as usize], window) {
                    seen -= 1u32;
                }
            }
        }
        if seen > 0u32 {
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
            sync_cube();
            let mut i = UNIT_POS_X;
            while i < rows * tile {
                let row = i / tile;
                let token = i % tile;
                let mut logit = f32::new(HIDDEN);
                if token < count {
                    let mut dot = f32::new(0.0);
                    for d in 0..dim_k {
                        dot += queries[(row * dim_k + d) as usize] * tile_k[(token * dim_k + d) as usize];
                    }
                    let position = tokens[token as usize];
                    logit = shaped(dot, query, position, slopes[row as usize], softcap, window, options);
                }
                state.scores[i as usize] = logit;
                i += THREADS;
            }
            take_scores(&mut state, &tile_v, count, dim_v, rows, tile, options.window);
        }
        // Before the next tile's positions take the place of these.
        sync_cube();
        start += tile;
    }
    finish(&state, &part, out, lse, group, dim_v, rows);
}
