//! Rows that are made of others, and attention to rows that stand for many.

use std::ops::Range;

use cubecl::prelude::*;
use tether_core::{CoreError, DType, PoolRows, RowLists, StandInProblem, StandIns};

use crate::cube::launch::{array, spread, uploaded, with_storage};
use crate::kernels::segments::{self, THREADS};
use crate::{Cube, CubeTensor};

/// Entries that one cube adds up: of longer lists there are means of parts first, which count as much as all that they are made of.
const PART: usize = 64;

/// Lists on the device, and what counts how much.
struct Lists {
    starts: Vec<u32>,
    rows: Vec<u32>,
    weights: CubeTensor,
}

impl<R: Runtime> Cube<R> {
    /// Weighted means of rows.
    pub(crate) fn weighted_means(
        &self,
        pool: &CubeTensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<CubeTensor, CoreError> {
        let row = PoolRows::new(&pool.shape, &[lists.len()])?;
        lists.check(row.pool_rows)?;
        self.require(pool.dtype)?;
        self.require(dtype)?;
        let (count, dim) = (lists.len(), row.row_len);
        if count * dim == 0 {
            return self.tensor(&[count, dim], dtype);
        }
        let handle = self.client().create_from_slice(f32::as_bytes(match lists.weights {
            [] => &[0.0],
            some => some,
        }));
        let weights =
            CubeTensor { handle, shape: [lists.weights.len()].as_slice().into(), dtype: DType::F32 };
        let mut lists = Lists { starts: lists.starts.to_vec(), rows: lists.rows.to_vec(), weights };
        let mut parts: Option<CubeTensor> = None;
        loop {
            let pool = parts.as_ref().unwrap_or(pool);
            // Where parts begin, and where the parts of each list do.
            let (mut begins, mut of_lists) = (vec![0u32], vec![0u32]);
            for bounds in lists.starts.windows(2) {
                let inner = (bounds[0] as usize..bounds[1] as usize).step_by(PART).skip(1);
                begins.extend(inner.map(|start| start as u32));
                begins.push(bounds[1]);
                of_lists.push(begins.len() as u32 - 1);
            }
            if begins.len() == lists.starts.len() {
                return Ok(self.means_of(pool, &lists, dim, dtype)?.0);
            }
            let made = Lists { starts: begins, ..lists };
            let (means, totals) = self.means_of(pool, &made, dim, DType::F32)?;
            let rows = (0..means.shape[0] as u32).collect();
            lists = Lists { starts: of_lists, rows, weights: totals };
            parts = Some(means);
        }
    }

    /// Means of the lists, and the sums of their weights.
    fn means_of(
        &self,
        pool: &CubeTensor,
        lists: &Lists,
        dim: usize,
        dtype: DType,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let count = lists.starts.len() - 1;
        let (out, totals) = (self.tensor(&[count, dim], dtype)?, self.tensor(&[count], DType::F32)?);
        let client = self.client();
        let ((starts, starts_len), (rows, rows_len)) =
            (uploaded(client, &lists.starts), uploaded(client, &lists.rows));
        let (x, y) = spread(count);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `count` lists and reads entries below their ends, which are rows of the pool (checked).
        unsafe {
            with_storage!(pool.dtype, F => with_storage!(dtype, O => {
                segments::weighted_rows::launch_unchecked::<F, O, R>(
                    client, CubeCount::Static(x, y, 1), CubeDim::new_1d(THREADS), array(&pool.handle, pool.len()),
                    array(&starts, starts_len), array(&rows, rows_len),
                    array(&lists.weights.handle, lists.weights.len().max(1)), array(&out.handle, out.len()),
                    array(&totals.handle, totals.len()), count as u32, dim as u32,
                );
            }));
        }
        Ok((out, totals))
    }

    /// Merges attention to stand-ins into results.
    pub(crate) fn merge_stand_ins(
        &self,
        q: &CubeTensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: Range<usize>,
        scale: f32,
        (out, lse): (&CubeTensor, &CubeTensor),
    ) -> Result<(), CoreError> {
        let &StandIns { keys, values, biases } = stand_ins;
        let shapes = (keys.shape(), values.shape(), biases.shape());
        let problem = StandInProblem::new(&q.shape, (&out.shape, &lse.shape), shapes, &tokens)?;
        for (what, tensor, expected) in [
            ("keys of stand-ins", keys, DType::F32),
            ("values of stand-ins", values, DType::F32),
            ("biases of stand-ins", biases, DType::F32),
            ("log-sum-exps", lse, DType::F32),
            ("out", out, q.dtype),
        ] {
            if tensor.dtype != expected {
                return Err(CoreError::DTypeMismatch { what, expected, got: tensor.dtype });
            }
        }
        self.require(q.dtype)?;
        let StandInProblem { kv_heads, group, head_dim_k, head_dim_v } = problem;
        let query_heads = kv_heads * group;
        let count = tokens.len() * query_heads;
        if count * head_dim_v == 0 {
            return Ok(());
        }
        let (x, y) = spread(count);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `count` rows of queries from the first token's on, which are there (checked), and reads a row for each key head.
        unsafe {
            with_storage!(q.dtype, F => segments::attend_stand_ins::launch_unchecked::<F, R>(
                self.client(), CubeCount::Static(x, y, 1), CubeDim::new_1d(THREADS), array(&q.handle, q.len()),
                array(&keys.handle, keys.len()), array(&values.handle, values.len()),
                array(&biases.handle, biases.len()), array(&out.handle, out.len()),
                array(&lse.handle, lse.len()), (tokens.start * query_heads) as u32, count as u32,
                query_heads as u32, group as u32, scale, head_dim_k as u32, head_dim_v as u32,
            ));
        }
        Ok(())
    }
}
