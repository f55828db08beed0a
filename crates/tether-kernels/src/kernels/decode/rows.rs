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

/// Row of the token `wanted` tokens after `token`, or of the list's last one where there is none. With whole pages in a step, `page` is the step's.
#[cube]
fn row(
    pool: &Pool,
    pages: &Array<u32>,
    page: u32,
    token: u32,
    wanted: u32,
    #[comptime] whole_pages: bool,
) -> u32 {
    let last = pool.length - 1u32 - token;
    let there = select(wanted < last, wanted, last);
    let in_pool = if comptime!(whole_pages) {
        // A step does not cross pages; the remainder is the same for all of its tokens.
        page * pool.page_size + token % pool.page_size + there
    } else {
        let token = token + there;
        pages[(pool.first_page + token / pool.page_size) as usize] * pool.page_size + token % pool.page_size
    };
    in_pool * pool.page_heads + pool.head
}

/// Words of the keys of tokens `octet` and `octet + 8`, a quarter of a row each.
#[cube]
pub(super) fn load_keys<W: Size>(
    k: &Array<Vector<u32, W>>,
    words: &mut Array<Vector<u32, W>>,
    pool: &Pool,
    pages: &Array<u32>,
    page: u32,
    token: u32,
    #[comptime] loads: usize,
    #[comptime] whole_pages: bool,
) {
    let quad = UNIT_POS_X % 4;
    let octet = UNIT_POS_X / 4;
    #[unroll]
    for i in 0..2usize {
        let row = row(pool, pages, page, token, octet + comptime!(8 * i as u32), whole_pages);
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
    page: u32,
    token: u32,
    #[comptime] loads: usize,
    #[comptime] whole_pages: bool,
) {
    let quad = UNIT_POS_X % 4;
    let octet = UNIT_POS_X / 4;
    #[unroll]
    for i in 0..4usize {
        let wanted = 2 * quad + comptime!(i as u32 % 2 + i as u32 / 2 * 8);
        let row = row(pool, pages, page, token, wanted, whole_pages);
        #[unroll]
        for load in 0..loads {
            let at = row * comptime!(8 * loads as u32) + comptime!(8 * load as u32) + octet;
            words[i * loads + load] = v[at as usize];
        }
    }
}

/// Scales of the four tokens of [`load_values`], which are also those of a thread's columns of logits.
#[cube]
pub(super) fn load_scales(
    scales: &Array<f32>,
    into: &mut Array<f32>,
    pool: &Pool,
    pages: &Array<u32>,
    page: u32,
    token: u32,
    #[comptime] whole_pages: bool,
) {
    let quad = UNIT_POS_X % 4;
    #[unroll]
    for i in 0..4usize {
        let wanted = 2 * quad + comptime!(i as u32 % 2 + i as u32 / 2 * 8);
        let row = row(pool, pages, page, token, wanted, whole_pages);
        into[i] = scales[row as usize];
    }
}
