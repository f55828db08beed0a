//! Paged decode attention.

use super::HostTables;
use super::paged::{Attended, HeadQueries, PagedHead, Rows, attend_in_parts};
use super::shaped::{Asking, Narrowed, Plain, Shaping};
use tether_core::{CoreError, DecodeProblem, HostTensor, Side, TensorData, merge_partial};

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
    attend_to_lists(problem, tables, queries, &load, None)
}

/// [`paged_attention`] with arguments that are checked, and options where there are more than a scale.
pub(super) fn attend_to_lists(
    problem: &DecodeProblem,
    tables: &HostTables,
    queries: &PagedQueries<'_>,
    rows: &(impl Rows + Sync),
    shaping: Option<&Shaping<'_>>,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences, kv_heads, group, head_dim_k, head_dim_v, .. } = problem;
    let all = (0..sequences * kv_heads).map(|i| (i / kv_heads, i % kv_heads));
    let (dims, parallel) = ((head_dim_k, head_dim_v), queries.parallel);
    let parts = if let Some(shaping) = shaping {
        let narrowed: Vec<Narrowed<'_>> = (all.clone())
            .map(|(sequence, kv_head)| {
                let head = of_head(problem, tables, (sequence, kv_head));
                shaping.narrow(&head, Asking { first: sequence, count: 1, seen: head.tokens, kv_head, group })
            })
            .collect();
        let heads: Vec<HeadQueries<'_, _>> = (all.zip(&narrowed))
            .map(|(of, Narrowed { pages, hidden, logits })| {
                let head = of_head(problem, tables, of);
                let head = PagedHead { pages, tokens: head.tokens - hidden, ..head };
                HeadQueries { head, queries: of_queries(problem, queries, of), logits }
            })
            .collect();
        attend_in_parts(&heads, dims, parallel, rows)?
    } else {
        let heads: Vec<HeadQueries<'_, _>> = all
            .map(|of| HeadQueries {
                head: of_head(problem, tables, of),
                queries: of_queries(problem, queries, of),
                logits: &Plain,
            })
            .collect();
        attend_in_parts(&heads, dims, parallel, rows)?
    };
    // Sequence-major, and a key head's queries lie together, so the parts are the result.
    let (out, lse): (Vec<Vec<f32>>, Vec<Vec<f32>>) = parts.into_iter().unzip();
    attended(problem, queries.q, (out.concat(), lse.concat()), shaping)
}

/// Results as tensors, sinks counted.
pub(super) fn attended(
    problem: &DecodeProblem,
    q: &HostTensor,
    (mut out, mut lse): Attended,
    shaping: Option<&Shaping<'_>>,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let (sequences, heads, dim) = (problem.sequences, problem.query_heads(), problem.head_dim_v);
    if let Some(sinks) = shaping.map(|shaping| &shaping.options.sinks).filter(|sinks| !sinks.is_empty()) {
        // A sink is a token whose value is 0.
        merge_partial((&mut out, &mut lse), (&vec![0.0; sequences * heads * dim], &sinks.repeat(sequences)))?;
    }
    let out = TensorData::narrowed(q.dtype(), &out);
    Ok((HostTensor::new(&[sequences, heads, dim], out)?, HostTensor::from_f32(&[sequences, heads], lse)?))
}

/// The tokens of a key head.
fn of_head<'t>(
    problem: &DecodeProblem,
    tables: &'t HostTables,
    (sequence, kv_head): (usize, usize),
) -> PagedHead<'t> {
    let &DecodeProblem { page_size, page_heads, .. } = problem;
    let list = kv_head / page_heads * problem.sequences + sequence;
    let pages = tables.pages(list);
    let tokens = tables.lengths[list] as usize;
    PagedHead { pages, tokens, page_size, page_heads, place: kv_head % page_heads }
}

/// The scaled queries of the heads that share a key head.
fn of_queries(
    problem: &DecodeProblem,
    queries: &PagedQueries<'_>,
    (sequence, kv_head): (usize, usize),
) -> Vec<f32> {
    let &DecodeProblem { group, head_dim_k, .. } = problem;
    let first_query = (sequence * problem.query_heads() + kv_head * group) * head_dim_k;
    let q = queries.q.data().widened(first_query..first_query + group * head_dim_k);
    q.iter().map(|x| x * queries.scale).collect()
}
