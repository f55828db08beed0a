//! Block attention without matrix units: a query row a thread.

use cubecl::prelude::*;

/// Query rows of a cube, one a thread.
pub(crate) const ROWS: u32 = 64;

/// Softmax attention in one pass over tiles of keys. Keys come rotated and in logical order (`[units, tokens, heads, dim_k]`, all
/// sequences' units in one row, those of sequence `s` from `first_unit[s]` to `first_unit[s + 1]`); values are read from their slots.
/// Queries are prepared: scaled, rotated, `f32`. Cube x counts blocks of rows (a row is a query head of the group and a token), cube y key heads,
/// cube z sequences.
#[cube(launch)]
pub(crate) fn attend_rows<F: Float>(
    q: &Array<f32>,
    keys: &Array<F>,
    values: &Array<F>,
    slots: &Array<u32>,
    first_unit: &Array<u32>,
    out: &mut Array<f32>,
    query_tokens: u32,
    tokens: u32,
    kv_heads: u32,
    group: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] tile: u32,
) {
    let mut tile_k = SharedMemory::<f32>::new((tile * dim_k) as usize);
    let mut tile_v = SharedMemory::<f32>::new((tile * dim_v) as usize);
    let kv_head = CUBE_POS_Y;
    let sequence = CUBE_POS_Z;
    let row = CUBE_POS_X * ROWS + UNIT_POS_X;
    let inside = row < group * query_tokens;
    let query_head = kv_head * group + row / query_tokens;
    let query_row = (sequence * query_tokens + row % query_tokens) * kv_heads * group + query_head;

    let mut query = Array::<f32>::new(comptime!(dim_k as usize));
    let mut sum = Array::<f32>::new(comptime!(dim_v as usize));
    #[unroll(dim_k <= 128)]
    for d in 0..dim_k {
        query[d as usize] = 0.0f32;
        if inside {
            query[d as usize] = q[(query_row * dim_k + d) as usize];
        }
    }
    #[unroll(dim_v <= 128)]
    for d in 0..dim_v {
        sum[d as usize] = 0.0f32;
    }
    let mut row_max = f32::new(-1e30);
    let mut row_sum = 0.0f32;

    let begin = first_unit[sequence as usize];
    let total = (first_unit[sequence as usize + 1] - begin) * tokens;
    let mut start = 0u32;
    while start < total {
        let mut i = UNIT_POS_X;
        while i < tile * dim_k {
            let key = start + i / dim_k;
            let mut x = 0.0f32;
            if key < total {
                let at = ((begin * tokens + key) * kv_heads + kv_head) * dim_k + i % dim_k;
                x = f32::cast_from(keys[at as usize]);
            }
            tile_k[i as usize] = x;
            i += ROWS;
        }
        let mut i = UNIT_POS_X;
        while i < tile * dim_v {
            let key = start + i / dim_v;
            let mut x = 0.0f32;
            if key < total {
                let slot = slots[(begin + key / tokens) as usize];
                let at = ((slot * tokens + key % tokens) * kv_heads + kv_head) * dim_v + i % dim_v;
                x = f32::cast_from(values[at as usize]);
            }
            tile_v[i as usize] = x;
            i += ROWS;
        }
        sync_cube();
        let mut count = total - start;
        if count > tile {
            count = tile.runtime();
        }
        for j in 0..count {
            let mut score = 0.0f32;
            #[unroll(dim_k <= 128)]
            for d in 0..dim_k {
                score += query[d as usize] * tile_k[(j * dim_k + d) as usize];
            }
            let new_max = row_max.max(score);
            let keep = (row_max - new_max).exp();
            let weight = (score - new_max).exp();
            row_sum = row_sum * keep + weight;
            #[unroll(dim_v <= 128)]
            for d in 0..dim_v {
                sum[d as usize] = sum[d as usize] * keep + weight * tile_v[(j * dim_v + d) as usize];
            }
            row_max = new_max;
        }
        sync_cube();
        start += tile;
    }
    if inside {
        #[unroll(dim_v <= 128)]
        for d in 0..dim_v {
            out[(query_row * dim_v + d) as usize] = sum[d as usize] / row_sum;
        }
    }
}
