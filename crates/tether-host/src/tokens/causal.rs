//! Causal attention of blocks of new tokens over pages: runs of queries against what they see.

use rayon::prelude::*;

use super::decode::{attend_to_lists, attended};
use super::paged::{Attended, PagedHead, Rows};
use super::shaped::{Asking, Narrowed, Plain, Shaping};
use super::{HostTables, PagedQueries};
use tether_core::{CoreError, DecodeProblem, HostTensor};

/// Query tokens of a task.
const QUERIES: usize = 32;

/// A run of queries of one sequence and key head.
#[derive(Clone, Copy)]
struct Task {
    sequence: usize,
    kv_head: usize,
    /// The first query, counted through the batch, and how many there are.
    first: usize,
    count: usize,
    /// Tokens that the first query sees; each further one sees one more.
    seen: usize,
}

/// Output and log-sum-exps of a batch whose sequences' tokens begin at `starts`; arguments are checked, and there are options where
/// they are more than a scale.
pub(super) fn causal(
    problem: &DecodeProblem,
    tables: &HostTables,
    starts: &[u32],
    queries: &PagedQueries<'_>,
    pool: &(impl Rows + Sync),
    shaping: Option<&Shaping<'_>>,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences: tokens, kv_heads, group, head_dim_k, head_dim_v, .. } = problem;
    let &DecodeProblem { page_size, page_heads, .. } = problem;
    let sequences = starts.len() - 1;
    // One token of each sees all there is: the attention of a decode step.
    if tokens == sequences {
        return attend_to_lists(problem, tables, queries, pool, shaping);
    }
    let &PagedQueries { q, scale, parallel } = queries;
    let heads = problem.query_heads();
    let list = |task: &Task| task.kv_head / page_heads * sequences + task.sequence;
    let mut tasks = Vec::new();
    for sequence in 0..sequences {
        let (begin, end) = (starts[sequence] as usize, starts[sequence + 1] as usize);
        for first in (begin..end).step_by(QUERIES) {
            tasks.extend((0..kv_heads).map(|kv_head| {
                let count = QUERIES.min(end - first);
                let mut task = Task { sequence, kv_head, first, count, seen: 0 };
                task.seen = tables.lengths[list(&task)] as usize - (end - first) + 1;
                task
            }));
        }
    }
    let attend = |task: &Task| {
        let &Task { kv_head, first, count, seen, .. } = task;
        let pages = tables.pages(list(task));
        let place = kv_head % page_heads;
        let head = PagedHead { pages, tokens: seen + count - 1, page_size, page_heads, place };
        let mut rows = vec![0f32; count * group * head_dim_k];
        for (i, row) in rows.chunks_exact_mut(group * head_dim_k).enumerate() {
            q.data().widen_into(((first + i) * heads + kv_head * group) * head_dim_k, row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
        let dims = (head_dim_k, head_dim_v);
        let Some(shaping) = shaping else {
            return head.attend(&rows, dims, |row| seen + row / group, pool, (&Plain, 0));
        };
        let Narrowed { pages, hidden, logits } =
            shaping.narrow(&head, Asking { first, count, seen, kv_head, group });
        let head = PagedHead { pages: &pages, tokens: head.tokens - hidden, ..head };
        head.attend(&rows, dims, |row| seen - hidden + row / group, pool, (&logits, 0))
    };
    let parts: Vec<Attended> =
        if parallel { tasks.par_iter().map(attend).collect() } else { tasks.iter().map(attend).collect() };
    let mut out = vec![0f32; tokens * heads * head_dim_v];
    let mut lse = vec![0f32; tokens * heads];
    for (&Task { kv_head: head, first, .. }, (part, part_lse)) in tasks.iter().zip(parts) {
        for (row, part_lse) in part_lse.chunks_exact(group).enumerate() {
            let at = (first + row) * heads + head * group;
            let values = &part[row * group * head_dim_v..][..group * head_dim_v];
            out[at * head_dim_v..][..values.len()].copy_from_slice(values);
            lse[at..at + group].copy_from_slice(part_lse);
        }
    }
    attended(problem, q, (out, lse), shaping)
}
