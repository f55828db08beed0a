//! Decode attention over rows of codes, in tiles that are restored in shared memory.

use cubecl::prelude::*;

use super::plain::{THREADS, finish, load_queries, part, row_of, running, take_tile};
use crate::kernels::rows_of_codes::{RowFormat, number_at};

/// [`super::decode_plain`] over pages of codes, of one head each. Frames are those of the key heads.
#[cube(launch_unchecked)]
pub(crate) fn decode_plain_rows<F: Float, O: Float>(
    q: &Array<F>,
    k: &Array<u32>,
    v: &Array<u32>,
    k_beside: &Array<u32>,
    v_beside: &Array<u32>,
    k_frames: &Array<f32>,
    v_frames: &Array<f32>,
    indptr: &Array<u32>,
    pages: &Array<u32>,
    lengths: &Array<u32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    scale: f32,
    group: u32,
    row_blocks: u32,
    #[comptime] format_k: RowFormat,
    #[comptime] format_v: RowFormat,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) {
    let dim_k = comptime!(format_k.dim);
    let dim_v = comptime!(format_v.dim);
    let page_size = comptime!(format_k.page);
    let part = part(indptr, lengths, 1u32, group, row_blocks, rows, tile);
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
            let row = row_of(&part, pages, start + i / dim_k, page_size, 1u32);
            tile_k[i as usize] = number_at(k, k_beside, k_frames, row, part.kv_head, i % dim_k, format_k);
            i += THREADS;
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_v {
            let row = row_of(&part, pages, start + i / dim_v, page_size, 1u32);
            tile_v[i as usize] = number_at(v, v_beside, v_frames, row, part.kv_head, i % dim_v, format_v);
            i += THREADS;
        }
        take_tile(&mut state, &queries, &tile_k, &tile_v, count, dim_k, dim_v, rows, tile);
        start += tile;
    }
    finish(&state, &part, out, lse, group, dim_v, rows);
}
