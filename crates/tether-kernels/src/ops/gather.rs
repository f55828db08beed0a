//! Compaction: rows and pages are copied as the widest words that fit them.

use cubecl::prelude::*;
use tether_core::{DType, PageProblem, RowProblem, TokenLayout};

use crate::cube::launch::{array, flat, vector_size, with_storage};
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

pub(crate) fn launch_rows<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &RowProblem,
    x: &CubeTensor,
    indices: &CubeIndices,
    out: &CubeTensor,
) {
    let from = &problem.from;
    let (tokens, heads, kept) = (from.tokens as u32, from.heads as u32, problem.kept as u32);
    let outermost = from.layout == TokenLayout::Hnd;
    macro_rules! launch {
        ($W:ty, $at_once:expr, $words:expr) => {{
            let (at_once, words) = ($at_once, |elements: usize| $words(elements) / $at_once);
            let (count, dim) = flat(words(out.len()).div_ceil(gather::PER_THREAD));
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `heads * kept` rows, and every index is below `tokens` (checked by its bound).
            unsafe {
                gather::gather_rows::launch_unchecked::<$W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    array(&x.handle, words(x.len())),
                    array(&indices.handle, indices.len()),
                    array(&out.handle, words(out.len())),
                    tokens,
                    heads,
                    kept,
                    words(from.head_dim) as u32,
                    outermost,
                );
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
    pool: &CubeTensor,
    indices: &CubeIndices,
    out: &CubeTensor,
) {
    macro_rules! launch {
        ($W:ty, $at_once:expr, $words:expr) => {{
            let (at_once, words) = ($at_once, |elements: usize| $words(elements) / $at_once);
            let (count, dim) = flat(words(out.len()).div_ceil(gather::PER_THREAD));
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `kept` pages, and every index is below the pool's pages (checked by its bound).
            unsafe {
                gather::gather_pages::launch_unchecked::<$W, R>(
                    client,
                    count,
                    dim,
                    at_once,
                    array(&pool.handle, words(pool.len())),
                    array(&indices.handle, indices.len()),
                    array(&out.handle, words(out.len())),
                    problem.kept as u32,
                    words(problem.page_len) as u32,
                );
            }
        }};
    }
    match Words::of(client, pool.dtype, problem.page_len) {
        Words::Whole { at_once, per_element: (bytes, word) } => {
            launch!(u32, at_once, |elements: usize| elements * bytes / word);
        }
        Words::Elements => with_storage!(pool.dtype, F => launch!(F, 1, |elements: usize| elements)),
    }
}
