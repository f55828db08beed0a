//! Rotary embeddings on the way out of a store, and of queries.

use cubecl::prelude::*;

use super::copy::cube_unit;
use super::tokens::{angle, rotate_item};
use super::words::Words;

/// Copies units out of a store with their keys rotated: `table` holds slot, place in `out` and position of each unit, and token `t` of a unit at
/// position `p` has entry `p * tokens + t` of the rotation. A thread takes one item of one token and `heads_per_thread` heads, as in
/// [`rotate_tokens`](super::tokens::rotate_tokens).
#[cube(launch_unchecked)]
pub(crate) fn gather_rotated<F: Float, N: Size>(
    store: &Array<Vector<F, N>>,
    table: &Words,
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    out: &mut Array<Vector<F, N>>,
    units: u32,
    tokens: u32,
    items: u32,
    pair_items: u32,
    head_blocks: u32,
    entries: u32,
    head: u32,
    first_item: u32,
    first_pair: u32,
    pair_count: u32,
    partner: u32,
    tail: u32,
    scale: f32,
    #[comptime] half: bool,
    #[comptime] heads_per_thread: usize,
) {
    let unit = cube_unit();
    let index = CUBE_POS_X * CUBE_DIM + UNIT_POS;
    let item = index % items;
    let block = index / items % head_blocks;
    let token = index / items / head_blocks;
    if unit < units && token < tokens {
        let (slot, place, position) = (table.get(3 * unit), table.get(3 * unit + 1), table.get(3 * unit + 2));
        let row = head_blocks * comptime!(heads_per_thread as u32) * head;
        rotate_item::<F, N>(
            store,
            pairs,
            deltas,
            out,
            (slot * tokens + token) * row + block * head,
            (place * tokens + token) * row + block * head,
            item,
            pair_items,
            head_blocks * head,
            position * tokens + token,
            entries,
            first_item,
            first_pair,
            pair_count,
            partner,
            tail,
            scale,
            half,
            heads_per_thread,
        );
    }
}

/// Queries `[sequences, tokens, heads, dim]` as `f32`, scaled, and rotated where `rotated`: token `t` of a sequence has entry
/// `start[sequence] * unit_tokens + t` of the rotation. One thread a pair of channels.
#[cube(launch)]
pub(crate) fn prepare_queries<F: Float>(
    q: &Array<F>,
    start: &Array<u32>,
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    out: &mut Array<f32>,
    tokens: u32,
    unit_tokens: u32,
    heads: u32,
    dim: u32,
    rotary_pairs: u32,
    first_pair: u32,
    pair_count: u32,
    entries: u32,
    rotation_scale: f32,
    scale: f32,
    #[comptime] rotated: bool,
    #[comptime] half: bool,
) {
    if comptime![rotated] {
        if ABSOLUTE_POS < out.len() / 2 {
            let index = ABSOLUTE_POS as u32;
            let pair = index % (dim / 2);
            let row = index / (dim / 2);
            let token = row / heads % tokens;
            let sequence = row / (heads * tokens);
            // Channels that no pair has are taken two by two.
            let apart = half.runtime() && pair < rotary_pairs;
            let first = row * dim + select(apart, pair, 2 * pair);
            let second = row * dim + select(apart, pair + rotary_pairs, 2 * pair + 1);
            let a = f32::cast_from(q[first as usize]) * scale;
            let b = f32::cast_from(q[second as usize]) * scale;
            let entry = start[sequence as usize] * unit_tokens + token;
            let (cos, sin, turns) =
                angle(pairs, deltas, pair - first_pair, pair_count, entry, entries, rotation_scale);
            out[first as usize] = select(turns, a * cos - b * sin, a);
            out[second as usize] = select(turns, a * sin + b * cos, b);
        }
    } else if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = f32::cast_from(q[ABSOLUTE_POS]) * scale;
    }
}
