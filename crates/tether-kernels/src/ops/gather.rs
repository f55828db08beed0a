//! Compaction: rows and pages are copied as the widest words that fit them.

use cubecl::prelude::*;
use tether_core::{DType, PageProblem, RowProblem, TokenLayout};

use crate::cube::launch::{THREADS, array, spread, vector_size, with_storage};
use crate::kernels::gather;
use crate::{CubeIndices, CubeTensor};

/// How `len` elements of `dtype` in a row are moved.
enum Words {
    /// 32-bit words, this many at once.
    Whole { at_once: usize, per_element: (usize, usize) },
    /// Elements, one at a time: a row of an odd number of half words.
    Elements,
}

impl Words {
    fn of<R: Runtime>(client: &ComputeClient<R>, dtype: DType, len: usize) -> Self {
        let bytes = len * dtype.bytes();
        if bytes.is_multiple_of(4) {
            Self::Whole { at_once: vector_size(client, 4, &[bytes / 4]), per_element: (dtype.bytes(), 4) }
        } else {
            Self::Elements
        }
    }
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
    macro_rules! launch {
        ($W:ty, $at_once:expr, $words:expr) => {{
            let (at_once, words) = ($at_once, |elements: usize| $words(elements) / $at_once);
            let whole = |t: &CubeTensor| array::<R>(&t.handle, words(t.len()));
            let (count, dim) = cubes(words(x_out.len()), 1 + usize::from(other.is_some()));
            let (rows, row) = (array(&indices.handle, indices.len()), words(from.head_dim) as u32);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernels stop at `heads * kept` rows, and every index is below `tokens` (checked by its bound).
            unsafe {
                match other {
                    None => gather::gather_rows::launch_unchecked::<$W, R>(
                        client, count, dim, at_once, whole(x), rows, whole(x_out), tokens, heads, kept, row, outermost,
                    ),
                    Some((y, y_out)) => gather::gather_rows_of_two::launch_unchecked::<$W, R>(
                        client, count, dim, at_once, whole(x), whole(y), rows, whole(x_out), whole(y_out), tokens,
                        heads, kept, row, outermost,
                    ),
                }
            }
        }};
    }
    match Words::of(client, x.dtype, from.head_dim) {
        Words::Whole { at_once, per_element: (bytes, word) } => {
            launch!(u32, at_once, |elements: usize| elements * bytes / word);
        }
        Words::Elements => with_storage!(x.dtype, F => launch!(F, 1, |elements: usize| elements)),
    }
}

pub(crate) fn launch_pages<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &PageProblem,
    (x, x_out): Moved<'_>,
    other: Option<Moved<'_>>,
    indices: &CubeIndices,
) {
    let kept = problem.kept as u32;
    macro_rules! launch {
        ($W:ty, $at_once:expr, $words:expr) => {{
            let (at_once, words) = ($at_once, |elements: usize| $words(elements) / $at_once);
            let whole = |t: &CubeTensor| array::<R>(&t.handle, words(t.len()));
            let (count, dim) = cubes(words(x_out.len()), 1 + usize::from(other.is_some()));
            let (pages, page) = (array(&indices.handle, indices.len()), words(problem.page_len) as u32);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernels stop at `kept` pages, and every index is below the pool's pages (checked by its bound).
            unsafe {
                match other {
                    None => gather::gather_pages::launch_unchecked::<$W, R>(
                        client, count, dim, at_once, whole(x), pages, whole(x_out), kept, page,
                    ),
                    Some((y, y_out)) => gather::gather_pages_of_two::launch_unchecked::<$W, R>(
                        client, count, dim, at_once, whole(x), whole(y), pages, whole(x_out), whole(y_out), kept, page,
                    ),
                }
            }
        }};
    }
    match Words::of(client, x.dtype, problem.page_len) {
        Words::Whole { at_once, per_element: (bytes, word) } => {
            launch!(u32, at_once, |elements: usize| elements * bytes / word);
        }
        Words::Elements => with_storage!(x.dtype, F => launch!(F, 1, |elements: usize| elements)),
    }
}
