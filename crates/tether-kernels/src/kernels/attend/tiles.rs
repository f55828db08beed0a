//! Tiles of keys and values in shared memory, and operands out of them.

use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

/// Keys of a tile.
pub(crate) const TILE: u32 = 32;

/// Tiles in shared memory: the one that is read, the next, and one that slower warps may still read.
pub(crate) const STAGES: u32 = 3;

/// Channels of queries and keys in shared memory, of which a step takes 32; those past the head's are zero.
pub(crate) fn padded(dim_k: u32) -> u32 {
    dim_k.next_multiple_of(32)
}

/// Words from a row of keys to the next in shared memory: eight rows by four words are read at a time, and meet in no bank.
pub(crate) fn key_step(dim_k: u32) -> u32 {
    let words = padded(dim_k) / 8;
    if words % 8 == 4 { words } else { words + 4 }
}

/// The same for values, of which eight rows of one word are read at a time.
pub(crate) fn value_step(dim_v: u32) -> u32 {
    dim_v / 8 + 1 - dim_v / 8 % 2
}

/// Where a tile lies: keys up to `last` of a list whose entries in the page table begin at `first_page`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Pages {
    pub(super) first_page: u32,
    pub(super) last: u32,
    pub(super) page_heads: u32,
    pub(super) head: u32,
}

/// Copies of a thread of a tile of rows of `row_words` words.
pub(super) fn copies(row_words: u32, threads: u32) -> usize {
    (TILE * row_words).div_ceil(threads) as usize
}

/// Rows of the pool from which this thread copies the tile from `start` on, looked up a tile ahead: nobody waits for the page table then.
#[cube]
pub(super) fn look_up(
    table: &Array<u32>,
    rows: &mut Array<u32>,
    pages: &Pages,
    start: u32,
    #[comptime] page_size: u32,
    #[comptime] row_words: u32,
    #[comptime] threads: u32,
) {
    #[unroll]
    for i in 0..comptime!(copies(row_words, threads)) {
        let index = UNIT_POS_X + comptime!(i as u32 * threads);
        // Past the end the last one comes again; its weight is nothing.
        let key = (start + index / row_words).min(pages.last);
        let page = table[(pages.first_page + key / page_size) as usize];
        rows[i] = (page * page_size + key % page_size) * pages.page_heads + pages.head;
    }
}

/// Starts this thread's copies of a tile, whose rows were looked up, to row `base` of shared memory. A word has `word` elements.
#[cube]
pub(super) fn copy_tile<C: CubePrimitive>(
    source: &Array<C>,
    tile: &mut SharedMemory<C>,
    rows: &Array<u32>,
    base: u32,
    #[comptime] row_words: u32,
    #[comptime] step: u32,
    #[comptime] threads: u32,
    #[comptime] word: u32,
) {
    let words = comptime!(TILE * row_words);
    #[unroll]
    for i in 0..comptime!(copies(row_words, threads)) {
        let index = UNIT_POS_X + comptime!(i as u32 * threads);
        let from = (rows[i] * row_words + index % row_words) as usize;
        let to = ((base + index / row_words) * step + index % row_words) as usize;
        if comptime!((i as u32 + 1) * threads <= words) {
            copy_async(&source.slice(from, from + 1), &mut tile.slice_mut(to, to + 1), word);
        } else {
            if index < words {
                copy_async(&source.slice(from, from + 1), &mut tile.slice_mut(to, to + 1), word);
            }
        }
    }
}

/// Fills what rows of keys have past the head's channels, once: copies leave it alone.
#[cube]
pub(super) fn clear_padding<N4: Size>(
    tile: &mut SharedMemory<Vector<u32, N4>>,
    #[comptime] dim_k: u32,
    #[comptime] threads: u32,
) {
    let row = comptime!(dim_k / 8);
    let pad = comptime!(padded(dim_k) / 8 - row);
    let step = comptime!(key_step(dim_k));
    if comptime!(pad > 0) {
        let mut index = UNIT_POS_X;
        while index < comptime!(STAGES * TILE * pad) {
            tile[(index / pad * step + row + index % pad) as usize] = Vector::new(0u32);
            index += threads;
        }
    }
}

/// A thread's part of an operand of 16 rows and 16 channels.
#[cube]
pub(super) fn query_operand<F: Float, N2: Size, N4: Size>(
    queries: &SharedMemory<Vector<u32, N4>>,
    at: u32,
) -> Array<Vector<F, N2>> {
    let words = queries[at as usize];
    let mut operand = Array::<Vector<F, N2>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        operand[i] = Vector::reinterpret(words[i]);
    }
    operand
}
