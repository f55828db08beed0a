//! Paged decode attention.

use super::HostTables;
use super::paged::{PagedHead, Rows, attend_in_parts};
use tether_core::{CoreError, DecodeProblem, HostTensor, Side, TensorData};

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

/// [`tether_core::TokenEngine::decode`] over keys and values in any form: `load(side, row, into)` writes the rows of a pool
/// `[pages * page_size * page_heads, head_dim]` from row `row` on, as many as fit `into`, widened.
///
/// # Errors
/// [`CoreError::ShapeMismatch`] when the queries are not the problem's, [`CoreError::SizeOverflow`] for results that do not fit.
pub fn paged_attention(
    problem: &DecodeProblem,
    tables: &HostTables,
    queries: &PagedQueries<'_>,
    load: impl Fn(Side, usize, &mut [f32]) + Sync,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let expected = [problem.sequences, problem.query_heads(), problem.head_dim_k];
    if queries.q.shape() != expected {
        return Err(CoreError::ShapeMismatch {
            what: "q",
            expected: expected.into(),
            got: queries.q.shape().into(),
        });
    }
    attend_to_lists(problem, tables, queries, &load)
}

/// [`paged_attention`] with arguments that are checked.
pub(super) fn attend_to_lists(
    problem: &DecodeProblem,
    tables: &HostTables,
    queries: &PagedQueries<'_>,
    rows: &(impl Rows + Sync),
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences, kv_heads, head_dim_v, .. } = problem;
    let heads: Vec<(PagedHead<'_>, Vec<f32>)> = (0..sequences * kv_heads)
        .map(|i| of_head(problem, tables, queries, (i / kv_heads, i % kv_heads)))
        .collect();
    // Sequence-major, and a key head's queries lie together, so the parts are the result.
    let parts = attend_in_parts(&heads, (problem.head_dim_k, head_dim_v), queries.parallel, rows)?;
    let (out, lse): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.into_iter().unzip();
    let out = TensorData::narrowed(queries.q.dtype(), &out.concat());
    Ok((
        HostTensor::new(&[sequences, problem.query_heads(), head_dim_v], out)?,
        HostTensor::from_f32(&[sequences, problem.query_heads()], lse.concat())?,
    ))
}

/// The tokens of a key head, and the scaled queries of the heads that share it.
fn of_head<'t>(
    problem: &DecodeProblem,
    tables: &'t HostTables,
    queries: &PagedQueries<'_>,
    (sequence, kv_head): (usize, usize),
) -> (PagedHead<'t>, Vec<f32>) {
    let &DecodeProblem { group, head_dim_k, page_size, page_heads, .. } = problem;
    let list = kv_head / page_heads * problem.sequences + sequence;
    let pages = tables.pages(list);
    let tokens = tables.lengths[list] as usize;
    let head = PagedHead { pages, tokens, page_size, page_heads, place: kv_head % page_heads };
    let first_query = (sequence * problem.query_heads() + kv_head * group) * head_dim_k;
    let q = queries.q.data().widened(first_query..first_query + group * head_dim_k);
    (head, q.iter().map(|x| x * queries.scale).collect())
}
