//! What rows give under matrices of their heads.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, MeanRotation};

use super::row_scores::{Strides, heads_of_rows};
use crate::cube::launch::{array, flat_by, uploaded, vector_size, with_storage};
use crate::kernels::products::{BLOCK, DEPTH, THREADS};
use crate::kernels::row_forms::{self, Form};
use crate::{Cube, CubeTensor};

/// Parts that the products of a head's rows are added up in, at most.
const PARTS: usize = 64;

/// A vector and a matrix of each query head, of which a key's expected logit is made.
pub(crate) struct MomentsToCome {
    /// `[query_heads, dim]`.
    vectors: CubeTensor,
    /// `[query_heads, dim, dim]`.
    matrices: CubeTensor,
}

impl<R: Runtime> Cube<R> {
    /// One number for each row of `x` `[heads / group, rows, dim]` and each of the `group` heads that it belongs to:
    /// `[heads, rows]`. `matrices` is `[heads, count, dim]` and `numbers` `[heads, count]`, which forms without
    /// numbers do not read.
    pub(crate) fn row_forms(
        &self,
        x: &CubeTensor,
        (matrices, numbers): (&CubeTensor, Option<&CubeTensor>),
        form: Form,
    ) -> Result<CubeTensor, CoreError> {
        let [of_heads, rows, dim] = heads_of_rows(x)?;
        let [heads, count, _] = heads_of_rows(matrices)?;
        let out = self.tensor(&[heads, rows], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let client = self.client();
        if matrices.dtype != DType::F32 && matrices.dtype != x.dtype {
            let (what, expected, got) = ("rows of a matrix", x.dtype, matrices.dtype);
            return Err(CoreError::DTypeMismatch { what, expected, got });
        }
        if heads > 65_535 {
            let feature = "more than 65535 heads";
            return Err(CoreError::Unsupported { engine: R::name(client), feature });
        }
        let of_matrices = vector_size(client, matrices.dtype.bytes(), &[dim, DEPTH as usize]);
        // A quadratic form asks for single numbers of a row.
        let of_rows = match form {
            Form::Quadratic => 1,
            Form::Absolute | Form::Largest => vector_size(client, x.dtype.bytes(), &[dim, DEPTH as usize]),
        };
        let numbers = numbers.unwrap_or(matrices);
        let cubes = CubeCount::Static(rows.div_ceil(BLOCK as usize) as u32, heads as u32, 1);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `rows` rows of a head, at `count` rows of its matrix, and reads a number for
        // each of those where it is given some.
        unsafe {
            macro_rules! launch {
                ($A:ty, $F:ty) => {
                    row_forms::row_forms::launch_unchecked::<$A, $F, R>(
                        client,
                        cubes,
                        CubeDim::new_1d(THREADS),
                        of_matrices,
                        of_rows,
                        array(&matrices.handle, matrices.len() / of_matrices),
                        array(&numbers.handle, numbers.len()),
                        array(&x.handle, x.len() / of_rows),
                        array(&out.handle, out.len()),
                        count as u32,
                        (heads / of_heads.max(1)) as u32,
                        rows as u32,
                        rows as u32,
                        dim as u32,
                        form,
                    )
                };
            }
            // Rows are compared with rows of their own sort, and else multiplied with what was worked out.
            with_storage!(x.dtype, F => match matrices.dtype {
                DType::F32 => launch!(f32, F),
                _ => launch!(F, F),
            });
        }
        Ok(out)
    }

    /// `|P v|_1` of each value of `x` `[kv_heads, tokens, dim]` under each query head's rows of the projection,
    /// averaged over the query heads of a key head.
    pub(crate) fn projected_norms(
        &self,
        x: &CubeTensor,
        projection: &CubeTensor,
        group: usize,
    ) -> Result<CubeTensor, CoreError> {
        let norms = self.row_forms(x, (projection, None), Form::Absolute)?;
        self.group_means(&norms, (group, 0))
    }

    /// What makes the expected logits of queries to come, of those that were: `queries` is `[query_heads, n, dim]`.
    pub(crate) fn moments_to_come(
        &self,
        queries: &CubeTensor,
        rotation: &MeanRotation,
        scale: f32,
        covariance: bool,
    ) -> Result<MomentsToCome, CoreError> {
        let [heads, rows, dim] = heads_of_rows(queries)?;
        let means = self.row_means((queries, rows), None)?;
        let covariances = if covariance { self.row_covariances(queries, &means)? } else { means.clone() };
        let vectors = self.tensor(&[heads, dim], DType::F32)?;
        let matrices = self.tensor(&[heads, dim, dim], DType::F32)?;
        let client = self.client();
        let (partners, partners_len) = uploaded(client, rotation.partners());
        let factors: Vec<u32> = rotation.factors().iter().flatten().map(|&x| (x as f32).to_bits()).collect();
        let (factors, factors_len) = uploaded(client, &factors);
        let (count, threads) = flat_by(matrices.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number of a matrix; partners are channels, of which the rotation has as many as the
        // queries (checked with the leaf).
        unsafe {
            row_forms::rotated_moments::launch_unchecked::<R>(
                client,
                count,
                threads,
                array(&means.handle, means.len()),
                array(&covariances.handle, covariances.len()),
                array(&partners, partners_len),
                array(&factors, factors_len),
                array(&vectors.handle, vectors.len()),
                array(&matrices.handle, matrices.len()),
                heads as u32,
                dim as u32,
                scale,
                scale * scale / 2.0,
                covariance,
            );
        }
        Ok(MomentsToCome { vectors, matrices })
    }

    /// Softmax of the expected logits of keys `x` `[kv_heads, tokens, dim]` after the first `sink`, averaged over the
    /// query heads of a key head.
    pub(crate) fn expected_attention(
        &self,
        x: &CubeTensor,
        moments: &MomentsToCome,
        group: usize,
        sink: usize,
    ) -> Result<CubeTensor, CoreError> {
        let of = (&moments.matrices, Some(&moments.vectors));
        let logits = self.row_forms(x, of, Form::Quadratic)?;
        self.softmax_rows(&logits, sink);
        self.group_means(&logits, (group, sink))
    }

    /// Means over `group` rows of `x`, `[heads * group, columns]`, of the columns from `first` on.
    fn group_means(&self, x: &CubeTensor, (group, first): (usize, usize)) -> Result<CubeTensor, CoreError> {
        let columns = x.shape[1];
        let strides = Strides { first, head: group * columns, column: 1, step: columns, count: group };
        self.strided_means(x, (x.shape[0] / group, columns - first), strides, 1.0)
    }

    /// Covariances of the channels of rows `x`, `[heads, rows, dim]`, whose means are `means`: `[heads, dim, dim]`.
    fn row_covariances(&self, x: &CubeTensor, means: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let [heads, rows, dim] = heads_of_rows(x)?;
        let blocks = dim.div_ceil(BLOCK as usize).pow(2);
        let parts = rows.div_ceil(256).clamp(1, PARTS);
        let sums = self.tensor(&[heads, parts, dim, dim], DType::F32)?;
        if heads > 65_535 || blocks > 65_535 {
            let feature = "more than 65535 heads, or blocks of channels";
            return Err(CoreError::Unsupported { engine: R::name(self.client()), feature });
        }
        let cubes = CubeCount::Static(parts as u32, heads as u32, blocks as u32);
        if sums.len() > 0 {
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `rows` rows and `dim` channels, and writes a matrix for each part and head.
            unsafe {
                with_storage!(x.dtype, F => row_forms::row_covariances::launch_unchecked::<F, R>(
                    self.client(), cubes, CubeDim::new_1d(THREADS), array(&x.handle, x.len()),
                    array(&means.handle, means.len()), array(&sums.handle, sums.len()), rows as u32, dim as u32,
                ));
            }
        }
        let size = dim * dim;
        let strides = Strides { first: 0, head: parts * size, column: 1, step: size, count: parts };
        self.strided_means(&sums, (heads, size), strides, parts as f32 / rows.max(1) as f32)
    }
}
