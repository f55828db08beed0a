//! What a cube is to do: rows of queries of a sequence that share a key head, over a stretch of the list that they see.

use cubecl::prelude::*;

/// Words of an item.
pub(crate) const ITEM_WORDS: usize = 12;

/// In place of a number of parts: the rows see all of their keys in this one item.
pub(crate) const WHOLE: u32 = 0;

/// An item of the work list. A row is a new token of the sequence and a query head of the group, heads fastest.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Item {
    /// Entry of the page table at which the list begins.
    pub(super) first_page: u32,
    /// The sequence's first new token in the batch.
    pub(super) first_token: u32,
    /// Rows of the sequence, and the first of this item.
    pub(super) rows: u32,
    pub(super) first_row: u32,
    pub(super) kv_head: u32,
    /// Keys that the sequence's first new token sees; each further one sees one more, up to `length`.
    pub(super) seen: u32,
    pub(super) length: u32,
    /// Keys of this item.
    pub(super) begin: u32,
    pub(super) end: u32,
    /// Where the rows' parts begin among all partial results, how many each row has, and which one this is.
    pub(super) place: u32,
    pub(super) parts: u32,
    pub(super) part: u32,
}

#[cube]
pub(super) fn item(items: &Array<u32>, number: u32) -> Item {
    let at = (number * comptime!(ITEM_WORDS as u32)) as usize;
    Item {
        first_page: items[at],
        first_token: items[at + 1],
        rows: items[at + 2],
        first_row: items[at + 3],
        kv_head: items[at + 4],
        seen: items[at + 5],
        length: items[at + 6],
        begin: items[at + 7],
        end: items[at + 8],
        place: items[at + 9],
        parts: items[at + 10],
        part: items[at + 11],
    }
}

/// Keys that a row sees. Rows past the last one see what there is.
#[cube]
pub(super) fn bound(item: &Item, row: u32, group: u32) -> u32 {
    (item.seen + row / group).min(item.length)
}

/// A row's place among the queries.
#[cube]
pub(super) fn query_row(item: &Item, row: u32, group: u32, query_heads: u32) -> u32 {
    (item.first_token + row / group) * query_heads + item.kv_head * group + row % group
}

/// A row's place among partial results.
#[cube]
pub(super) fn part_row(item: &Item, row: u32) -> u32 {
    item.place + (row - item.first_row) * item.parts + item.part
}

/// Which item a cube has: a grid of two axes may have a few cubes too many, and they do what the last one does.
#[cube]
pub(super) fn number(items: u32) -> u32 {
    (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X).min(items - 1u32)
}

/// One thread of those that have a number writes it.
#[cube]
pub(super) fn write_if(chosen: bool, to: &mut Array<f32>, at: u32, number: f32) {
    if chosen {
        to[at as usize] = number;
    }
}
