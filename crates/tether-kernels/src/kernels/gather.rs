//! Chosen rows or pages, copied as words: the element type does not matter.

use cubecl::prelude::*;

/// Vectors that a thread copies, a cube's width apart, all read before any is written.
pub(crate) const PER_THREAD: usize = 4;

#[cube]
fn rows<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    out: &mut Array<Vector<W, N>>,
    tokens: u32,
    heads: u32,
    kept: u32,
    row: u32,
    #[comptime] heads_outermost: bool,
) {
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X * PER_THREAD as u32 + UNIT_POS_X;
    let end = heads * kept * row;
    let mut values = Array::<Vector<W, N>>::new(PER_THREAD);
    #[unroll]
    for i in 0..PER_THREAD {
        let at = first + i as u32 * CUBE_DIM_X;
        let at = select(at < end, at, 0u32);
        let place = at / row;
        let from = if comptime!(heads_outermost) {
            let index = indices[place as usize];
            place / kept * tokens + index
        } else {
            let head = place % heads;
            let index = indices[(head * kept + place / heads) as usize];
            index * heads + head
        };
        values[i] = x[(from * row + at % row) as usize];
    }
    #[unroll]
    for i in 0..PER_THREAD {
        let at = first + i as u32 * CUBE_DIM_X;
        if at < end {
            out[at as usize] = values[i];
        }
    }
}

#[cube]
fn whole_pages<W: Numeric, N: Size>(
    pool: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    out: &mut Array<Vector<W, N>>,
    kept: u32,
    page: u32,
) {
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X * PER_THREAD as u32 + UNIT_POS_X;
    let end = kept * page;
    let mut values = Array::<Vector<W, N>>::new(PER_THREAD);
    #[unroll]
    for i in 0..PER_THREAD {
        let at = first + i as u32 * CUBE_DIM_X;
        let at = select(at < end, at, 0u32);
        let index = indices[(at / page) as usize];
        values[i] = pool[(index * page + at % page) as usize];
    }
    #[unroll]
    for i in 0..PER_THREAD {
        let at = first + i as u32 * CUBE_DIM_X;
        if at < end {
            out[at as usize] = values[i];
        }
    }
}

/// `out` row `i` of head `h` is row `indices[h, i]` of head `h`. A row is `row` vectors.
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
    rows::<W, N>(x, indices, out, tokens, heads, kept, row, heads_outermost);
}

/// [`gather_rows`] of two tensors by the same indices; cube z is which.
#[cube(launch_unchecked)]
pub(crate) fn gather_rows_of_two<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    y: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    x_out: &mut Array<Vector<W, N>>,
    y_out: &mut Array<Vector<W, N>>,
    tokens: u32,
    heads: u32,
    kept: u32,
    row: u32,
    #[comptime] heads_outermost: bool,
) {
    if CUBE_POS_Z == 0 {
        rows::<W, N>(x, indices, x_out, tokens, heads, kept, row, heads_outermost);
    } else {
        rows::<W, N>(y, indices, y_out, tokens, heads, kept, row, heads_outermost);
    }
}

/// `out` page `i` is page `indices[i]` of `pool`. A page is `page` vectors.
#[cube(launch_unchecked)]
pub(crate) fn gather_pages<W: Numeric, N: Size>(
    pool: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    out: &mut Array<Vector<W, N>>,
    kept: u32,
    page: u32,
) {
    whole_pages::<W, N>(pool, indices, out, kept, page);
}

/// [`gather_pages`] of two pools by the same indices; cube z is which.
#[cube(launch_unchecked)]
pub(crate) fn gather_pages_of_two<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    y: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    x_out: &mut Array<Vector<W, N>>,
    y_out: &mut Array<Vector<W, N>>,
    kept: u32,
    page: u32,
) {
    if CUBE_POS_Z == 0 {
        whole_pages::<W, N>(x, indices, x_out, kept, page);
    } else {
        whole_pages::<W, N>(y, indices, y_out, kept, page);
    }
}

#[cube]
fn scattered<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    pool: &mut Array<Vector<W, N>>,
    count: u32,
    row: u32,
) {
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X * PER_THREAD as u32 + UNIT_POS_X;
    let end = count * row;
    #[unroll]
    for i in 0..PER_THREAD {
        let at = first + i as u32 * CUBE_DIM_X;
        if at < end {
            let index = indices[(at / row) as usize];
            pool[(index * row + at % row) as usize] = x[at as usize];
        }
    }
}

/// Row `indices[i]` of `pool` becomes row `i` of `x`. A row is `row` vectors.
#[cube(launch_unchecked)]
pub(crate) fn scatter_rows<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    pool: &mut Array<Vector<W, N>>,
    count: u32,
    row: u32,
) {
    scattered::<W, N>(x, indices, pool, count, row);
}

/// [`scatter_rows`] of two tensors to the same rows of two pools; cube z is which.
#[cube(launch_unchecked)]
pub(crate) fn scatter_rows_of_two<W: Numeric, N: Size>(
    x: &Array<Vector<W, N>>,
    y: &Array<Vector<W, N>>,
    indices: &Array<u32>,
    x_pool: &mut Array<Vector<W, N>>,
    y_pool: &mut Array<Vector<W, N>>,
    count: u32,
    row: u32,
) {
    if CUBE_POS_Z == 0 {
        scattered::<W, N>(x, indices, x_pool, count, row);
    } else {
        scattered::<W, N>(y, indices, y_pool, count, row);
    }
}
