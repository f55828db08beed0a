//! Chosen rows or pages, copied as words: the element type does not matter.

use cubecl::prelude::*;

/// `out` row `i` of head `h` is row `indices[h, i]` of head `h`. A row is `row` vectors. One vector a thread.
#[cube(launch_unchecked)]
pub(crate) fn gather_rows<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    out: &mut Array<Vector<W, N>>,
    tokens: u32,
    heads: u32,
    kept: u32,
    row: u32,
    #[comptime] heads_outermost: bool,
) {
    let vector = ABSOLUTE_POS as u32 % row;
    let place = ABSOLUTE_POS as u32 / row;
    if place < heads * kept {
        let from = if comptime!(heads_outermost) {
            let index = indices[place as usize];
            place / kept * tokens + index
        } else {
            let head = place % heads;
            let index = indices[(head * kept + place / heads) as usize];
            index * heads + head
        };
        out[ABSOLUTE_POS] = x[(from * row + vector) as usize];
    }
}

/// `out` page `i` is page `indices[i]` of `pool`. A page is `page` vectors. One vector a thread.
#[cube(launch_unchecked)]
pub(crate) fn gather_pages<W: Numeric, N: Size>(
    pool: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    out: &mut Array<Vector<W, N>>,
    kept: u32,
    page: u32,
) {
    let place = ABSOLUTE_POS as u32 / page;
    if place < kept {
        let index = indices[place as usize];
        out[ABSOLUTE_POS] = pool[(index * page + ABSOLUTE_POS as u32 % page) as usize];
    }
}
