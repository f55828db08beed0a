//! Attention of a few queries, each of which sees a number of tokens of its own.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, LeafProblem};

use super::row_scores::Strides;
use crate::cube::launch::{array, flat_by, spread, uploaded, vector_size, with_storage};
use crate::kernels::products::{BLOCK, DEPTH, THREADS as PRODUCTS};
use crate::kernels::query_scores::{self, THREADS};
use crate::{Cube, CubeTensor};

/// Logits in memory at a time, unless a key head has more.
const LOGITS: usize = 1 << 26;

/// Which rows of logits there are.
pub(crate) struct QueryRows {
    /// Tokens that each query of a query head sees.
    pub(crate) visible: Vec<u32>,
    /// Tokens that are asked about.
    pub(crate) columns: usize,
    /// Multiplies logits.
    pub(crate) scale: f32,
    /// Whether the largest logit over the query heads of a key head stands for all of them.
    pub(crate) largest: bool,
}

impl<R: Runtime> Cube<R> {
    /// Attention that the first `kept` tokens get from queries `q`, averaged over all rows of a key head, or over
    /// those of each of its `units`: `[kv_heads * units, kept]`. `k` is `[kv_heads, tokens, dim]`.
    pub(crate) fn query_attention(
        &self,
        (q, k): (&CubeTensor, &CubeTensor),
        problem: &LeafProblem,
        rows: &QueryRows,
        (units, kept): (usize, usize),
    ) -> Result<CubeTensor, CoreError> {
        let &LeafProblem { kv_heads, tokens, group, dim, asked } = problem;
        if q.dtype != k.dtype {
            return Err(CoreError::DTypeMismatch { what: "q", expected: k.dtype, got: q.dtype });
        }
        let &QueryRows { ref visible, columns, scale, largest } = rows;
        let client = self.client();
        let of_head = if largest { asked } else { group * asked };
        let blocks = of_head.div_ceil(BLOCK as usize);
        if blocks > 65_535 {
            let feature = "more than 65535 blocks of queries";
            return Err(CoreError::Unsupported { engine: R::name(client), feature });
        }
        let out = self.tensor(&[kv_heads * units, kept], DType::F32)?;
        let (visible, visible_len) = uploaded(client, visible);
        let at_once = (LOGITS / (of_head * columns)).clamp(1, 65_535).min(kv_heads);
        let width = vector_size(client, k.dtype.bytes(), &[dim, DEPTH as usize]);
        for first_head in (0..kv_heads).step_by(at_once) {
            let heads = at_once.min(kv_heads - first_head);
            let logits = self.tensor(&[heads * of_head, columns], DType::F32)?;
            let cubes =
                CubeCount::Static(columns.div_ceil(BLOCK as usize) as u32, blocks as u32, heads as u32);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at a key head's rows and at `columns`, which are tokens of `k`; every query
            // has a number of tokens that it sees.
            unsafe {
                with_storage!(k.dtype, F => query_scores::query_logits::launch_unchecked::<F, R>(
                    client, cubes, CubeDim::new_1d(PRODUCTS), width, array(&q.handle, q.len() / width),
                    array(&k.handle, k.len() / width), array(&visible, visible_len),
                    array(&logits.handle, logits.len()), group as u32, asked as u32, tokens as u32,
                    columns as u32, first_head as u32, dim as u32, scale, largest,
                ));
            }
            self.softmax_rows(&logits, 0);
            let count = of_head / units;
            let strides = Strides { first: 0, head: count * columns, column: 1, step: columns, count };
            let to = first_head * units * kept;
            self.strided_means_to((&out, to), &logits, (heads * units, kept), strides, 1.0);
        }
        Ok(out)
    }

    /// The softmax of each row of `x`, `[rows, columns]`, in place, over the columns from `first` on.
    pub(crate) fn softmax_rows(&self, x: &CubeTensor, first: usize) {
        let columns = x.shape.last().copied().unwrap_or(0);
        let rows = x.len() / columns.max(1);
        if x.len() == 0 {
            return;
        }
        let (a, b) = spread(rows);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: a cube has a row, and stops at `columns`.
        unsafe {
            query_scores::softmax_rows::launch_unchecked::<R>(
                self.client(),
                CubeCount::Static(a, b, 1),
                CubeDim::new_1d(THREADS),
                array(&x.handle, x.len()),
                rows as u32,
                columns as u32,
                first as u32,
            );
        }
    }

    /// The mean of the `best` largest of each span of each row of `x`, `[rows, columns]`: `[rows, spans]`.
    pub(crate) fn span_means(
        &self,
        x: &CubeTensor,
        span: usize,
        best: usize,
    ) -> Result<CubeTensor, CoreError> {
        let (rows, columns) = (x.shape[0], x.shape[1]);
        let out = self.tensor(&[rows, columns.div_ceil(span)], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a span, which stops at its end and at that of the row.
        unsafe {
            query_scores::span_means::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                rows as u32,
                columns as u32,
                span as u32,
                best as u32,
            );
        }
        Ok(out)
    }
}
