//! Causal attention of a block of new tokens over pages: runs of queries against what they see.

use rayon::prelude::*;

use super::PagedQueries;
use super::decode::attend_to_lists;
use super::paged::{Attended, PagedHead, Rows};
use crate::{BlockTables, CoreError, DecodeProblem, HostTensor, TensorData};

/// Query tokens of a task.
const QUERIES: usize = 32;

/// Output and log-sum-exps; arguments are checked.
pub(super) fn causal(
    problem: &DecodeProblem,
    tables: &BlockTables<'_>,
    queries: &PagedQueries<'_>,
    pool: &(impl Rows + Sync),
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences: tokens, kv_heads, group, head_dim_k, head_dim_v, .. } = problem;
    let &DecodeProblem { page_size, page_heads, .. } = problem;
    // One token sees all there is: the attention of a decode step.
    if tokens == 1 {
        return attend_to_lists(problem, tables, queries, pool);
    }
    let &PagedQueries { q, scale, parallel } = queries;
    let heads = problem.query_heads();
    let runs = tokens.div_ceil(QUERIES);
    let task = |i: usize| {
        let (first, kv_head) = (i / kv_heads * QUERIES, i % kv_heads);
        let count = QUERIES.min(tokens - first);
        let list = kv_head / page_heads;
        // The first query of the run sees so many tokens, each further one one more.
        let seen = tables.lengths[list] as usize - tokens + first + 1;
        let pages = &tables.pages[tables.indptr[list] as usize..];
        let place = kv_head % page_heads;
        let head = PagedHead { pages, tokens: seen + count - 1, page_size, page_heads, place };
        let mut rows = vec![0f32; count * group * head_dim_k];
        for (i, row) in rows.chunks_exact_mut(group * head_dim_k).enumerate() {
            q.data().widen_into(((first + i) * heads + kv_head * group) * head_dim_k, row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
        head.attend(&rows, (head_dim_k, head_dim_v), |row| seen + row / group, pool)
    };
    let parts: Vec<Attended> = if parallel {
        (0..runs * kv_heads).into_par_iter().map(task).collect()
    } else {
        (0..runs * kv_heads).map(task).collect()
    };
    let mut out = vec![0f32; tokens * heads * head_dim_v];
    let mut lse = vec![0f32; tokens * heads];
    for (i, (part, part_lse)) in parts.into_iter().enumerate() {
        let (first, head) = (i / kv_heads * QUERIES, i % kv_heads);
        for (row, part_lse) in part_lse.chunks_exact(group).enumerate() {
            let at = (first + row) * heads + head * group;
            let values = &part[row * group * head_dim_v..][..group * head_dim_v];
            out[at * head_dim_v..][..values.len()].copy_from_slice(values);
            lse[at..at + group].copy_from_slice(part_lse);
        }
    }
    let out = TensorData::narrowed(q.dtype(), &out);
    Ok((HostTensor::new(&[tokens, heads, head_dim_v], out)?, HostTensor::from_f32(&[tokens, heads], lse)?))
}
