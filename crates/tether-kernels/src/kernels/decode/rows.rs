//! Where a step's tokens lie in the pool, and loading them.

use cubecl::prelude::*;

/// A list's pages, and the part of a page that is this cube's.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Pool {
    pub(super) first_page: u32,
    pub(super) page_size: u32,
    pub(super) page_heads: u32,
    pub(super) head: u32,
    pub(super) length: u32,
}

/// Page of the first token of a step.
#[cube]
pub(super) fn page_of(pool: &Pool, pages: &Array<u32>, token: u32) -> u32 {
    pages[(pool.first_page + token / pool.page_size) as usize]
}

/// What lies where a step has fewer tokens than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PastEnd {
    /// The list's last token in place of each: a page may hold anything there.
    Last,
    /// Whatever the page holds: it is codes, which stand for numbers whatever they are.
    Page,
}

/// Row of a step's first token, where a step does not cross pages.
#[cube]
pub(super) fn step_row(pool: &Pool, page: u32, token: u32) -> u32 {
    (page * pool.page_size + token % pool.page_size) * pool.page_heads + pool.head
}

/// Row of the token `wanted` tokens after `token`. With whole pages in a step, `first` is the step's first row.
#[cube]
fn row(
    pool: &Pool,
    pages: &Array<u32>,
    first: u32,
    token: u32,
    wanted: u32,
    #[comptime] whole_pages: bool,
    #[comptime] past_end: PastEnd,
) -> u32 {
    if comptime!(whole_pages && past_end == PastEnd::Page) {
        first + wanted * pool.page_heads
    } else {
        let last = pool.length - 1u32 - token;
        let there = select(wanted < last, wanted, last);
        if comptime!(whole_pages) {
            first + there * pool.page_heads
        } else {
            let token = token + there;
            step_row(pool, page_of(pool, pages, token), token)
        }
    }
}

/// Words of the keys of tokens `octet` and `octet + 8`, a quarter of a row each.
#[cube]
pub(super) fn load_keys<W: Size>(
    k: &Array<Vector<u32, W>>,
    words: &mut Array<Vector<u32, W>>,
    pool: &Pool,
    pages: &Array<u32>,
    first: u32,
    token: u32,
    #[comptime] loads: usize,
    #[comptime] whole_pages: bool,
    #[comptime] past_end: PastEnd,
) {
    let quad = UNIT_POS_X % 4;
    let octet = UNIT_POS_X / 4;
    #[unroll]
    for i in 0..2usize {
        let row = row(pool, pages, first, token, octet + comptime!(8 * i as u32), whole_pages, past_end);
        #[unroll]
        for load in 0..loads {
            let at = row * comptime!(4 * loads as u32) + comptime!(4 * load as u32) + quad;
            words[i * loads + load] = k[at as usize];
        }
    }
}

/// Words of the values of tokens `2 quad, 2 quad + 1, 2 quad + 8, 2 quad + 9`, an eighth of a row each.
#[cube]
pub(super) fn load_values<W: Size>(
    v: &Array<Vector<u32, W>>,
    words: &mut Array<Vector<u32, W>>,
    pool: &Pool,
    pages: &Array<u32>,
    first: u32,
    token: u32,
    #[comptime] loads: usize,
    #[comptime] whole_pages: bool,
    #[comptime] past_end: PastEnd,
) {
    let quad = UNIT_POS_X % 4;
    let octet = UNIT_POS_X / 4;
    #[unroll]
    for i in 0..4usize {
        let wanted = 2 * quad + comptime!(i as u32 % 2 + i as u32 / 2 * 8);
        let row = row(pool, pages, first, token, wanted, whole_pages, past_end);
        #[unroll]
        for load in 0..loads {
            let at = row * comptime!(8 * loads as u32) + comptime!(8 * load as u32) + octet;
            words[i * loads + load] = v[at as usize];
        }
    }
}

/// Scales, radii or positions of the four tokens of [`load_values`], which are also those of a thread's columns of logits.
#[cube]
pub(super) fn load_scales<S: CubePrimitive>(
    scales: &Array<S>,
    into: &mut Array<S>,
    pool: &Pool,
    pages: &Array<u32>,
    first: u32,
    token: u32,
    #[comptime] whole_pages: bool,
    #[comptime] past_end: PastEnd,
) {
    let quad = UNIT_POS_X % 4;
    #[unroll]
    for i in 0..4usize {
        let wanted = 2 * quad + comptime!(i as u32 % 2 + i as u32 / 2 * 8);
        let row = row(pool, pages, first, token, wanted, whole_pages, past_end);
        into[i] = scales[row as usize];
    }
}
