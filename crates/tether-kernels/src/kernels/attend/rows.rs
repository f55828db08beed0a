//! Block attention without matrix units: a query row a thread.

use cubecl::prelude::*;
use tether_core::EMPTY_LSE;

use super::work::{WHOLE, bound, item, number, part_row, query_row};

/// Query rows of a cube, one a thread.
pub(crate) const ROWS: u32 = 64;

/// Softmax attention of items of 64 rows in one pass over tiles of keys; see [`super::attend_matrix`]. Queries are multiplied by `scale`.
#[cube(launch)]
pub(crate) fn attend_rows<Q: Float, F: Float, O: Float>(
    q: &Array<Q>,
    keys: &Array<F>,
    values: &Array<F>,
    key_pages: &Array<u32>,
    value_pages: &Array<u32>,
    items: &Array<u32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    part_out: &mut Array<f32>,
    part_lse: &mut Array<f32>,
    cubes: u32,
    scale: f32,
    page_size: u32,
    page_heads: u32,
    group: u32,
    query_heads: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] tile: u32,
    #[comptime] with_lse: bool,
) {
    let mut tile_k = SharedMemory::<f32>::new((tile * dim_k) as usize);
    let mut tile_v = SharedMemory::<f32>::new((tile * dim_v) as usize);
    let item = item(items, number(cubes));
    let head = item.kv_head % page_heads;
    let row = item.first_row + UNIT_POS_X;
    let inside = row < item.rows;
    let seen = bound(&item, row, group);

    let mut query = Array::<f32>::new(comptime!(dim_k as usize));
    let mut sum = Array::<f32>::new(comptime!(dim_v as usize));
    let from = query_row(&item, row, group, query_heads) * dim_k;
    #[unroll(dim_k <= 128)]
    for d in 0..dim_k {
        query[d as usize] = 0.0f32;
        if inside {
            query[d as usize] = f32::cast_from(q[(from + d) as usize]) * scale;
        }
    }
    #[unroll(dim_v <= 128)]
    for d in 0..dim_v {
        sum[d as usize] = 0.0f32;
    }
    let mut row_max = f32::new(-1e30);
    let mut row_sum = 0.0f32;

    let mut start = item.begin;
    while start < item.end {
        let mut i = UNIT_POS_X;
        while i < tile * dim_k {
            let key = start + i / dim_k;
            let mut x = 0.0f32;
            if key < item.end {
                let page = key_pages[(item.first_page + key / page_size) as usize];
                let at = ((page * page_size + key % page_size) * page_heads + head) * dim_k + i % dim_k;
                x = f32::cast_from(keys[at as usize]);
            }
            tile_k[i as usize] = x;
            i += ROWS;
        }
        let mut i = UNIT_POS_X;
        while i < tile * dim_v {
            let key = start + i / dim_v;
            let mut x = 0.0f32;
            if key < item.end {
                let page = value_pages[(item.first_page + key / page_size) as usize];
                let at = ((page * page_size + key % page_size) * page_heads + head) * dim_v + i % dim_v;
                x = f32::cast_from(values[at as usize]);
            }
            tile_v[i as usize] = x;
            i += ROWS;
        }
        sync_cube();
        // Of the tile, what this row sees.
        let mut count = 0u32;
        if inside && start < seen {
            count = (seen.min(item.end) - start).min(tile.runtime());
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
        let any = row_sum > 0.0f32;
        let inverse = 1.0f32 / select(any, row_sum, 1.0f32);
        let log_sum = select(any, row_max + row_sum.ln(), f32::new(EMPTY_LSE));
        if item.parts == WHOLE {
            let to = query_row(&item, row, group, query_heads);
            #[unroll(dim_v <= 128)]
            for d in 0..dim_v {
                out[(to * dim_v + d) as usize] = O::cast_from(sum[d as usize] * inverse);
            }
            if comptime!(with_lse) {
                lse[to as usize] = log_sum;
            }
        } else {
            let to = part_row(&item, row);
            #[unroll(dim_v <= 128)]
            for d in 0..dim_v {
                part_out[(to * dim_v + d) as usize] = sum[d as usize] * inverse;
            }
            part_lse[to as usize] = log_sum;
        }
    }
}
