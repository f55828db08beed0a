//! Decode attention over spherical codes, without matrix units and without planes.

use cubecl::prelude::*;

use super::plain::{THREADS, finish, load_queries, part, row_of, running, take_tile};
use crate::kernels::spherical::{code_at, level_offset, rotate_shared};

/// [`super::decode_plain`] over spherical codes: queries are rotated first, results stay rotated and centred
/// ([`super::combine_spherical`] undoes that). `channels` holds the keys' signs and scales, `levels` those of all bits.
#[cube(launch_unchecked)]
pub(crate) fn decode_spherical_plain<F: Float, S: Float>(
    q: &Array<F>,
    k: &Array<u32>,
    v: &Array<u32>,
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
    page_size: u32,
    group: u32,
    row_blocks: u32,
    #[comptime] dim_k: u32,
    #[comptime] dim_v: u32,
    #[comptime] bits_k: u32,
    #[comptime] bits_v: u32,
    #[comptime] rows: u32,
    #[comptime] tile: u32,
) {
    let part = part(indptr, lengths, page_heads, group, row_blocks, rows, tile);
    let mut queries = SharedMemory::<f32>::new(comptime!((rows * dim_k) as usize));
    let mut tile_k = SharedMemory::<f32>::new(comptime!((tile * dim_k) as usize));
    let mut tile_v = SharedMemory::<f32>::new(comptime!((tile * dim_v) as usize));
    load_queries(q, &part, &mut queries, scale, group, dim_k, rows);
    rotate_shared(&mut queries, channels, rows, dim_k, THREADS, false);
    let mut state = running(rows, dim_v, tile);
    let words_k = comptime!((dim_k * bits_k).div_ceil(32));
    let words_v = comptime!((dim_v * bits_v).div_ceil(32));
    let mut start = part.begin;
    while start < part.end {
        let mut count = part.end - start;
        if count > tile {
            count = tile.runtime();
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_k {
            let row = row_of(&part, pages, start + i / dim_k, page_size, page_heads);
            let code = code_at(k, row * words_k, i % dim_k, bits_k);
            let level = levels[(code + comptime!(level_offset(bits_k))) as usize];
            tile_k[i as usize] = level * f32::cast_from(k_radii[row as usize]);
            i += THREADS;
        }
        let mut i = UNIT_POS_X;
        while i < count * dim_v {
            let row = row_of(&part, pages, start + i / dim_v, page_size, page_heads);
            let code = code_at(v, row * words_v, i % dim_v, bits_v);
            let level = levels[(code + comptime!(level_offset(bits_v))) as usize];
            tile_v[i as usize] = level * f32::cast_from(v_radii[row as usize]);
            i += THREADS;
        }
        take_tile(&mut state, &queries, &tile_k, &tile_v, count, dim_k, dim_v, rows, tile);
        start += tile;
    }
    finish(&state, &part, out, lse, group, dim_v, rows);
}
