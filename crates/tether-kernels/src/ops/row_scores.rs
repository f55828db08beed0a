//! Scores of rows that lie together, and their means.

use cubecl::prelude::*;
use tether_core::{ChosenTokens, CoreError, DType};

use crate::cube::launch::{array, flat_by, vector_size, with_storage};
use crate::kernels::row_scores::{self, Product, THREADS};
use crate::{Cube, CubeIndices, CubeTables, CubeTensor};

/// Parts that the rows of a head are added up in, at most.
const PARTS: usize = 128;

/// Which numbers a mean is over; see [`row_scores::strided_means`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strides {
    pub(crate) first: usize,
    pub(crate) head: usize,
    pub(crate) column: usize,
    pub(crate) step: usize,
    pub(crate) count: usize,
}

impl<R: Runtime> Cube<R> {
    /// One number for each of the first `rows` rows of each head of `x`, `[heads, stride, dim]`, with a vector for
    /// each head: `[heads, rows]`.
    pub(crate) fn row_products(
        &self,
        (x, rows): (&CubeTensor, usize),
        vectors: Option<&CubeTensor>,
        product: Product,
        factor: f32,
    ) -> Result<CubeTensor, CoreError> {
        let [heads, stride, dim] = heads_of_rows(x)?;
        let out = self.tensor(&[heads, rows], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let client = self.client();
        let width = vector_size(client, x.dtype.bytes(), &[dim]);
        let (count, threads) = flat_by(heads * rows, THREADS);
        // Lengths ask for no vectors; something has to be named.
        let vectors = vectors.unwrap_or(&out);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `heads * rows` rows, each of `dim` numbers, and reads vectors of as many where
        // it is given some.
        unsafe {
            with_storage!(x.dtype, F => row_scores::row_products::launch_unchecked::<F, R>(
                client, count, threads, width, array(&x.handle, x.len() / width),
                array(&vectors.handle, vectors.len()), array(&out.handle, out.len()), heads as u32, stride as u32,
                rows as u32, (dim / width) as u32, factor, product,
            ));
        }
        Ok(out)
    }

    /// The mean of the first `rows` rows of each head of `x`, `[heads, stride, dim]`, or with `lengths` `[heads,
    /// rows]` the mean of their directions: `[heads, 1, dim]`.
    pub(crate) fn row_means(
        &self,
        (x, rows): (&CubeTensor, usize),
        lengths: Option<&CubeTensor>,
    ) -> Result<CubeTensor, CoreError> {
        let parts = rows.div_ceil(64).clamp(1, PARTS);
        let sums = self.row_sums((x, rows), lengths, parts, 1.0)?;
        self.row_sums((&sums, parts), None, 1, rows.max(1) as f32)
    }

    /// 0 for each head whose numbers, `x` `[heads, columns]`, are finite, and no number for another: `[heads, 1]`.
    pub(crate) fn finite_rows(&self, x: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let (heads, columns) = (x.shape[0], x.shape[1]);
        let parts = columns.div_ceil(4096).clamp(1, PARTS);
        let sums = self.tensor(&[heads, parts], DType::F32)?;
        if heads > 65_535 {
            let feature = "more than 65535 heads";
            return Err(CoreError::Unsupported { engine: R::name(self.client()), feature });
        }
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `columns` numbers of each head and writes one for each part.
        unsafe {
            row_scores::column_sums::launch_unchecked::<R>(
                self.client(),
                CubeCount::Static(parts as u32, heads as u32, 1),
                CubeDim::new_1d(THREADS),
                array(&x.handle, x.len().max(1)),
                array(&sums.handle, sums.len()),
                columns as u32,
                // Times 0, which only what is not finite does not become.
                0.0,
            );
        }
        let strides = Strides { first: 0, head: parts, column: 0, step: 1, count: parts };
        self.strided_means(&sums, (heads, 1), strides, 1.0)
    }

    fn row_sums(
        &self,
        (x, rows): (&CubeTensor, usize),
        lengths: Option<&CubeTensor>,
        parts: usize,
        total: f32,
    ) -> Result<CubeTensor, CoreError> {
        let [heads, stride, dim] = heads_of_rows(x)?;
        let out = self.tensor(&[heads, parts, dim], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        if heads > 65_535 {
            return Err(CoreError::Unsupported {
                engine: R::name(self.client()),
                feature: "more than 65535 heads",
            });
        }
        let count = CubeCount::Static((dim as u32).div_ceil(THREADS), parts as u32, heads as u32);
        let of = lengths.unwrap_or(&out);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `rows` rows of each head and `dim` channels, and reads a length for each row
        // where it is given some.
        unsafe {
            with_storage!(x.dtype, F => row_scores::row_means::launch_unchecked::<F, R>(
                self.client(), count, CubeDim::new_1d(THREADS), array(&x.handle, x.len()),
                array(&of.handle, of.len()), array(&out.handle, out.len()), stride as u32, rows as u32,
                dim as u32, total, lengths.is_some(),
            ));
        }
        Ok(out)
    }

    /// Means of numbers of `x` that lie apart: `[heads, columns]`.
    pub(crate) fn strided_means(
        &self,
        x: &CubeTensor,
        (heads, columns): (usize, usize),
        strides: Strides,
        factor: f32,
    ) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&[heads, columns], DType::F32)?;
        self.strided_means_to((&out, 0), x, (heads, columns), strides, factor);
        Ok(out)
    }

    /// Means of numbers of `x` that lie apart, written to `out` from number `to` on: `[heads, columns]` of it.
    pub(crate) fn strided_means_to(
        &self,
        (out, to): (&CubeTensor, usize),
        x: &CubeTensor,
        (heads, columns): (usize, usize),
        strides: Strides,
        factor: f32,
    ) {
        if heads * columns == 0 {
            return;
        }
        let (count, threads) = flat_by(heads * columns, THREADS);
        let Strides { first, head, column, step, count: of } = strides;
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: callers name strides that stay within `x`, and a place from which `out` has room; the kernel stops
        // at `heads * columns` numbers.
        unsafe {
            row_scores::strided_means::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                heads as u32,
                columns as u32,
                first as u32,
                head as u32,
                column as u32,
                step as u32,
                of as u32,
                to as u32,
                factor,
            );
        }
    }

    /// Rows of equally long lists, `u32` `[lists, tokens]`.
    pub(crate) fn rows_of_lists(&self, tables: &CubeTables, tokens: usize) -> Result<CubeTensor, CoreError> {
        let lists = tables.lists.1.len();
        let out = self.tensor(&[lists, tokens], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: lists are `tokens` tokens long, and their pages are entries of the table (checked when they were
        // made).
        unsafe {
            row_scores::list_rows::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&tables.indptr, tables.indptr_len),
                array(&tables.pages, tables.pages_len),
                array(&out.handle, out.len()),
                lists as u32,
                tokens as u32,
                tables.page_size as u32,
            );
        }
        Ok(out)
    }

    /// Rows of some tokens of equally long lists, `u32` `[lists, count]`.
    pub(crate) fn rows_of_chosen(
        &self,
        tables: &CubeTables,
        (tokens, count): (usize, usize),
        asked: &ChosenTokens<'_, CubeIndices>,
    ) -> Result<CubeTensor, CoreError> {
        let lists = tables.lists.1.len();
        let out = self.tensor(&[lists, count], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let (cubes, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: lists are `tokens` tokens long, their pages are entries of the table, and what was chosen is below
        // that (checked).
        unsafe {
            row_scores::chosen_rows::launch_unchecked::<R>(
                self.client(),
                cubes,
                threads,
                array(&tables.indptr, tables.indptr_len),
                array(&tables.pages, tables.pages_len),
                array(asked.chosen.handle(), asked.chosen.len().max(1)),
                array(&out.handle, out.len()),
                lists as u32,
                tokens as u32,
                count as u32,
                asked.first as u32,
                asked.last as u32,
                tables.page_size as u32,
            );
        }
        Ok(out)
    }
}

/// Heads, rows and channels of `[heads, rows, dim]`.
pub(crate) fn heads_of_rows(x: &CubeTensor) -> Result<[usize; 3], CoreError> {
    <[usize; 3]>::try_from(x.shape()).map_err(|_| CoreError::ShapeMismatch {
        what: "rows",
        expected: [0, 0, 0].into(),
        got: x.shape().into(),
    })
}
