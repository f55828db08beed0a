//! Attention that tokens get, added up, where weights have been attention's by-product: its log-sum-exps are known.

use cubecl::prelude::*;

use super::decode::{Options, is_hidden, shaped};

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;

/// Adds to `sums`, `[rows of the pool, group]`, what the tokens of each list get from the new queries of their sequence. Cube x counts tiles of a list, cube y key heads,
/// cube z sequences. Rows of the list's new tokens, its last ones, begin at 0. With options, positions and `per_head` are those of attention.
#[cube]
fn add<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    lse: &Array<f32>,
    batch: &Array<u32>,
    starts: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    row_positions: &Array<u32>,
    token_positions: &Array<u32>,
    per_head: &Array<f32>,
    sums: &mut Array<f32>,
    scale: f32,
    softcap: f32,
    window: u32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    #[comptime] dim: u32,
    #[comptime] tile: u32,
    #[comptime] options: Options,
) {
    // A column more than a row has, so that threads of neighbouring tokens meet different banks.
    let stride = comptime!(dim + 1);
    let mut keys = SharedMemory::<f32>::new(comptime!((tile * stride) as usize));
    let mut rows = SharedMemory::<u32>::new(comptime!(tile as usize));

    let kv_head = CUBE_POS_Y;
    let sequence = CUBE_POS_Z;
    let list = (kv_head / page_heads * CUBE_COUNT_Z + sequence) as usize;
    let length = lengths[list];
    let first = CUBE_POS_X * tile;
    if UNIT_POS_X < tile {
        let token = first + UNIT_POS_X;
        if token < length {
            let page = pages[(starts[list] + token / page_size) as usize];
            rows[UNIT_POS_X as usize] =
                (page * page_size + token % page_size) * page_heads + kv_head % page_heads;
        }
    }
    sync_cube();
    let mut i = UNIT_POS_X;
    while i < tile * dim {
        let token = i / dim;
        if first + token < length {
            let at = rows[token as usize] * dim + i % dim;
            keys[(token * stride + i % dim) as usize] = f32::cast_from(k[at as usize]) * scale;
        }
        i += THREADS;
    }
    sync_cube();

    let begin = batch[sequence as usize];
    let new = batch[sequence as usize + 1] - begin;
    let past = length - new;
    let query_heads = CUBE_COUNT_Y * group;
    let mut i = UNIT_POS_X;
    while i < tile * group {
        let place = i % tile;
        let token = first + place;
        if token < length {
            let of_group = i / tile;
            // A token is seen by the queries from its own on.
            let mut query = 0u32;
            if token > past {
                query = token - past;
            }
            let position = if comptime!(options.positions) {
                row_positions[rows[place as usize] as usize]
            } else {
                token
            };
            let mut sum = 0.0f32;
            while query < new {
                let head = kv_head * group + of_group;
                let row = (begin + query) * query_heads + head;
                let at = if comptime!(options.positions) {
                    token_positions[(begin + query) as usize]
                } else {
                    past + query
                };
                let hidden =
                    if comptime!(options.window) { is_hidden(at, position, window) } else { false.runtime() };
                if !hidden {
                    let mut dot = 0.0f32;
                    for d in 0..dim {
                        dot +=
                            f32::cast_from(q[(row * dim + d) as usize]) * keys[(place * stride + d) as usize];
                    }
                    let slope =
                        if comptime!(options.alibi) { per_head[head as usize] } else { 0.0f32.runtime() };
                    let logit = shaped(dot, at, position, slope, softcap, window, options);
                    sum += (logit - lse[row as usize]).exp();
                }
                query += 1;
            }
            let at = (rows[place as usize] * group + of_group) as usize;
            if token < past {
                sum += sums[at];
            }
            sums[at] = sum;
        }
        i += THREADS;
    }
}

/// [`add`] with no more than a scale.
#[cube(launch_unchecked)]
pub(crate) fn add_attention<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    lse: &Array<f32>,
    batch: &Array<u32>,
    starts: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    sums: &mut Array<f32>,
    scale: f32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    #[comptime] dim: u32,
    #[comptime] tile: u32,
) {
    add(
        q,
        k,
        lse,
        batch,
        starts,
        pages,
        lengths,
        lengths,
        lengths,
        lse,
        sums,
        scale,
        scale,
        page_size,
        page_heads,
        page_size,
        group,
        dim,
        tile,
        comptime!(Options::default()),
    );
}

/// [`add`] with options.
#[cube(launch_unchecked)]
pub(crate) fn add_attention_options<F: Float>(
    q: &Array<F>,
    k: &Array<F>,
    lse: &Array<f32>,
    batch: &Array<u32>,
    starts: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    row_positions: &Array<u32>,
    token_positions: &Array<u32>,
    per_head: &Array<f32>,
    sums: &mut Array<f32>,
    scale: f32,
    softcap: f32,
    window: u32,
    page_heads: u32,
    page_size: u32,
    group: u32,
    #[comptime] dim: u32,
    #[comptime] tile: u32,
    #[comptime] options: Options,
) {
    add(
        q,
        k,
        lse,
        batch,
        starts,
        pages,
        lengths,
        row_positions,
        token_positions,
        per_head,
        sums,
        scale,
        softcap,
        window,
        page_heads,
        page_size,
        group,
        dim,
        tile,
        options,
    );
}
