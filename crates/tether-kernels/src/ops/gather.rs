//! Compaction: rows and pages are copied as the widest words that fit them.

use cubecl::prelude::*;
use tether_core::{PageProblem, PoolRows, RowProblem, TokenLayout};

use crate::cube::launch::{THREADS, array, spread, vector_size, with_storage};
use crate::kernels::gather;
use crate::{CubeIndices, CubeTensor};

/// Runs `$body` with `$W` as what rows of `$len` elements of `$dtype` are copied in: as many 32-bit words at once as divide a row, or single elements
/// where a row is an odd number of half words. `$at_once` of them are a vector, and `$vectors` counts the vectors of so many elements.
macro_rules! with_words {
    ($client:expr, $dtype:expr, $len:expr, |$W:ident, $at_once:ident, $vectors:ident| $body:expr) => {{
        let element = $dtype.bytes();
        if ($len * element).is_multiple_of(4) {
            type $W = u32;
            let $at_once = vector_size($client, 4, &[$len * element / 4]);
            let $vectors = |elements: usize| elements * element / 4 / $at_once;
            $body
        } else {
            let ($at_once, $vectors) = (1, |elements: usize| elements);
            with_storage!($dtype, $W => $body)
        }
    }};
}

/// One tensor or two of the same shape and dtype, each with where it goes.
pub(crate) type Moved<'a> = (&'a CubeTensor, &'a CubeTensor);

/// Cubes for `words` words of each of `tensors` tensors.
fn cubes(words: usize, tensors: usize) -> (CubeCount, CubeDim) {
    let (x, y) = spread(words.div_ceil(gather::PER_THREAD * THREADS as usize));
    (CubeCount::Static(x, y, tensors as u32), CubeDim::new_1d(THREADS))
}

pub(crate) fn launch_rows<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &RowProblem,
    (x, x_out): Moved<'_>,
    other: Option<Moved<'_>>,
    indices: &CubeIndices,
) {
    let from = &problem.from;
    let (tokens, heads, kept) = (from.tokens as u32, from.heads as u32, problem.kept as u32);
    let outermost = from.layout == TokenLayout::Hnd;
    with_words!(client, x.dtype, from.head_dim, |W, at_once, vectors| {
        let whole = |t: &CubeTensor| array::<R>(&t.handle, vectors(t.len()));
        let (count, dim) = cubes(vectors(x_out.len()), 1 + usize::from(other.is_some()));
        let (rows, row) = (array(&indices.handle, indices.len()), vectors(from.head_dim) as u32);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernels stop at `heads * kept` rows, and every index is below `tokens` (checked by its bound).
        unsafe {
            match other {
                None => gather::gather_rows::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    rows,
                    whole(x_out),
                    tokens,
                    heads,
                    kept,
                    row,
                    outermost,
                ),
                Some((y, y_out)) => gather::gather_rows_of_two::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    whole(y),
                    rows,
                    whole(x_out),
                    whole(y_out),
                    tokens,
                    heads,
                    kept,
                    row,
                    outermost,
                ),
            }
        }
    });
}

pub(crate) fn launch_pages<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &PageProblem,
    (x, x_out): Moved<'_>,
    other: Option<Moved<'_>>,
    indices: &CubeIndices,
) {
    let kept = problem.kept as u32;
    with_words!(client, x.dtype, problem.page_len, |W, at_once, vectors| {
        let whole = |t: &CubeTensor| array::<R>(&t.handle, vectors(t.len()));
        let (count, dim) = cubes(vectors(x_out.len()), 1 + usize::from(other.is_some()));
        let (pages, page) = (array(&indices.handle, indices.len()), vectors(problem.page_len) as u32);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernels stop at `kept` pages, and every index is below the pool's pages (checked by its bound).
        unsafe {
            match other {
                None => gather::gather_pages::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    pages,
                    whole(x_out),
                    kept,
                    page,
                ),
                Some((y, y_out)) => gather::gather_pages_of_two::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    whole(y),
                    pages,
                    whole(x_out),
                    whole(y_out),
                    kept,
                    page,
                ),
            }
        }
    });
}

/// Rows of `x` to rows `rows` of `pool`, and of another tensor to the same rows of another pool of the same shape and dtype.
pub(crate) fn launch_scatter<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &PoolRows,
    (x, pool): Moved<'_>,
    other: Option<Moved<'_>>,
    rows: &CubeIndices,
) {
    with_words!(client, x.dtype, problem.row_len, |W, at_once, vectors| {
        let whole = |t: &CubeTensor| array::<R>(&t.handle, vectors(t.len()));
        let (count, dim) = cubes(vectors(x.len()), 1 + usize::from(other.is_some()));
        let (indices, row) = (array(&rows.handle, rows.len()), vectors(problem.row_len) as u32);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernels stop at `count` rows, and every row number is below the pool's rows (checked by its bound).
        unsafe {
            match other {
                None => gather::scatter_rows::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    indices,
                    whole(pool),
                    problem.count as u32,
                    row,
                ),
                Some((y, y_pool)) => gather::scatter_rows_of_two::launch_unchecked::<W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    whole(x),
                    whole(y),
                    indices,
                    whole(pool),
                    whole(y_pool),
                    problem.count as u32,
                    row,
                ),
            }
        }
    });
}
