//! Paged decode attention: a sequence's keys are scored block by block, then its values are summed the same way.

use rayon::prelude::*;

use super::super::matmul::{MatRef, matmul};
use super::super::softmax::softmax_rows;
use super::HostTables;
use crate::engine::Side;
use crate::{CoreError, DecodeProblem, EMPTY_LSE, HostTensor, TensorData};

/// Tokens that are widened at a time; they stay in the second-level cache.
const BLOCK: usize = 256;

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct PagedQueries<'a> {
    /// `[sequences, query_heads, head_dim_k]`.
    pub q: &'a HostTensor,
    /// Multiplies `q.k`.
    pub scale: f32,
    /// Whether heads are spread over rayon's global pool.
    pub parallel: bool,
}

/// [`crate::TokenEngine::decode`] over keys and values in any form: `load(side, row, into)` writes row `row` of a pool
/// `[pages * page_size * page_heads, head_dim]` to `into`, widened.
///
/// # Errors
/// [`CoreError::ShapeMismatch`] when the queries are not the problem's, [`CoreError::SizeOverflow`] for results that do not fit.
pub fn paged_attention(
    problem: &DecodeProblem,
    tables: &HostTables,
    queries: &PagedQueries<'_>,
    load: impl Fn(Side, usize, &mut [f32]) + Sync,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences, kv_heads, head_dim_v, .. } = problem;
    let expected = [sequences, problem.query_heads(), problem.head_dim_k];
    if queries.q.shape() != expected {
        return Err(CoreError::ShapeMismatch {
            what: "q",
            expected: expected.into(),
            got: queries.q.shape().into(),
        });
    }
    let of_head = |i: usize| attend(problem, tables, queries, (i / kv_heads, i % kv_heads), &load);
    // Sequence-major, and a key head's queries lie together, so the parts are the result.
    let parts: Vec<(Vec<f32>, Vec<f32>)> = if queries.parallel {
        (0..sequences * kv_heads).into_par_iter().map(of_head).collect()
    } else {
        (0..sequences * kv_heads).map(of_head).collect()
    };
    let (out, lse): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.into_iter().unzip();
    let out = TensorData::narrowed(queries.q.dtype(), &out.concat());
    Ok((
        HostTensor::new(&[sequences, problem.query_heads(), head_dim_v], out)?,
        HostTensor::from_f32(&[sequences, problem.query_heads()], lse.concat())?,
    ))
}

/// Output and log-sum-exps of the query heads that share a key head.
fn attend(
    problem: &DecodeProblem,
    tables: &HostTables,
    queries: &PagedQueries<'_>,
    (sequence, kv_head): (usize, usize),
    load: impl Fn(Side, usize, &mut [f32]),
) -> (Vec<f32>, Vec<f32>) {
    let &DecodeProblem { group, head_dim_k, head_dim_v, page_size, page_heads, .. } = problem;
    let (pages, tokens) = tables.list(kv_head / page_heads, sequence);
    let mut out = vec![0f32; group * head_dim_v];
    if tokens == 0 {
        return (out, vec![EMPTY_LSE; group]);
    }
    let row = |token: usize| {
        (pages[token / page_size] as usize * page_size + token % page_size) * page_heads
            + kv_head % page_heads
    };
    let mut block = vec![0f32; BLOCK.min(tokens) * head_dim_k.max(head_dim_v)];
    let fill = |block: &mut [f32], side, first: usize, dim: usize| {
        if dim > 0 {
            let rows = block.chunks_exact_mut(dim).take(BLOCK.min(tokens - first)).enumerate();
            rows.for_each(|(i, into)| load(side, row(first + i), into));
        }
    };
    let first_query = (sequence * problem.query_heads() + kv_head * group) * head_dim_k;
    let q = queries.q.data().widened(first_query..first_query + group * head_dim_k);
    let q: Vec<f32> = q.iter().map(|x| x * queries.scale).collect();
    let mut weights = vec![0f32; group * tokens];
    for first in (0..tokens).step_by(BLOCK) {
        fill(&mut block, Side::Keys, first, head_dim_k);
        let keys = MatRef::row_major(&block, BLOCK.min(tokens - first), head_dim_k, head_dim_k);
        let q = MatRef::row_major(&q, group, head_dim_k, head_dim_k);
        matmul(&mut weights[first..], tokens, 0.0, q, keys.transposed());
    }
    let lse = softmax_rows(&mut weights, tokens);
    for first in (0..tokens).step_by(BLOCK) {
        fill(&mut block, Side::Values, first, head_dim_v);
        let count = BLOCK.min(tokens - first);
        let values = MatRef::row_major(&block, count, head_dim_v, head_dim_v);
        let weights = MatRef::row_major(&weights[first..], group, count, tokens);
        matmul(&mut out, head_dim_v, 1.0, weights, values);
    }
    (out, lse)
}
