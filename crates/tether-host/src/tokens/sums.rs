//! Attention that tokens get, added up.

use rayon::prelude::*;

use super::paged::PagedHead;
use super::shaped::{Asking, Logits, Narrowed, Plain, Shaping};
use super::{HostTables, PagedQueries};
use tether_core::{DecodeProblem, HostTensor};
use tether_dense::{MatRef, matmul};

/// Queries of a block: enough for the matrix product, few enough that a block of logits stays small.
const BLOCK: usize = 64;

/// What the tokens of one key head of one sequence get: `[group, tokens]`, and the rows of those tokens; none of those that no query sees.
struct Added {
    rows: Vec<usize>,
    new: usize,
    weights: Vec<f32>,
}

/// Adds the weights of a batch of queries to `sums`, `[rows of the pool, group]`; arguments are checked, and there are options where they are more than a
/// scale.
pub(super) fn add(
    problem: &DecodeProblem,
    tables: &HostTables,
    (starts, queries): &(&[u32], PagedQueries<'_>),
    keys: &HostTensor,
    shaping: Option<&Shaping<'_>>,
    sums: &mut [f32],
) {
    let sequences = starts.len() - 1;
    let of = |i: usize| {
        let (sequence, kv_head) = (i / problem.kv_heads, i % problem.kv_heads);
        let new = starts[sequence] as usize..starts[sequence + 1] as usize;
        let list = kv_head / problem.page_heads * sequences + sequence;
        let head = PagedHead {
            pages: tables.pages(list),
            tokens: tables.lengths[list] as usize,
            page_size: problem.page_size,
            page_heads: problem.page_heads,
            place: kv_head % problem.page_heads,
        };
        let Some(shaping) = shaping else {
            return added(problem, &head, kv_head, (queries, new), keys, (&Plain, &[]));
        };
        let seen = head.tokens - new.len() + 1;
        let asking = Asking { first: new.start, count: new.len(), seen, kv_head, group: problem.group };
        let Narrowed { pages, hidden, logits } = shaping.narrow(&head, asking);
        let head = PagedHead { pages: &pages, tokens: head.tokens - hidden, ..head };
        let sinks = shaping.options.sinks.get(kv_head * problem.group..).unwrap_or_default();
        added(problem, &head, kv_head, (queries, new), keys, (&logits, sinks))
    };
    let tasks = sequences * problem.kv_heads;
    let all: Vec<Added> = if queries.parallel {
        (0..tasks).into_par_iter().map(of).collect()
    } else {
        (0..tasks).map(of).collect()
    };
    for Added { rows, new, weights } in all {
        let (tokens, group) = (rows.len(), problem.group);
        for (token, row) in rows.into_iter().enumerate() {
            let sums = &mut sums[row * group..][..group];
            if token >= tokens - new {
                sums.fill(0.0);
            }
            sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += weights[i * tokens + token]);
        }
    }
}

fn added(
    problem: &DecodeProblem,
    head: &PagedHead<'_>,
    kv_head: usize,
    (queries, new): (&PagedQueries<'_>, std::ops::Range<usize>),
    keys: &HostTensor,
    (shaping, sinks): (&impl Logits, &[f32]),
) -> Added {
    let &DecodeProblem { head_dim_k: dim, group, .. } = problem;
    let tokens = head.tokens;
    let rows: Vec<usize> = (0..tokens).map(|token| head.row(token)).collect();
    let mut of_head = vec![0f32; tokens * dim];
    for (&row, key) in rows.iter().zip(of_head.chunks_exact_mut(dim.max(1))) {
        keys.data().widen_into(row * dim, key);
    }
    let heads = problem.query_heads();
    let past = tokens - new.len();
    let mut weights = vec![0f32; group * tokens];
    for (of_group, sums) in weights.chunks_exact_mut(tokens.max(1)).enumerate() {
        for first in (0..new.len()).step_by(BLOCK) {
            let count = BLOCK.min(new.len() - first);
            let mut block = vec![0f32; count * dim];
            for (i, query) in block.chunks_exact_mut(dim.max(1)).enumerate() {
                let at = (new.start + first + i) * heads + kv_head * group + of_group;
                queries.q.data().widen_into(at * dim, query);
                query.iter_mut().for_each(|x| *x *= queries.scale);
            }
            let visible = past + first + count;
            let mut logits = vec![0f32; count * visible];
            let seen = MatRef::row_major(&of_head[..visible * dim], visible, dim, dim).transposed();
            matmul(&mut logits, visible, 0.0, MatRef::row_major(&block, count, dim, dim), seen);
            for (row, place) in logits.chunks_exact_mut(visible).zip(past + first..) {
                let of_head = (place - past) * group + of_group;
                let lse = shaping.weigh((of_head, 0), &mut row[..=place], place + 1);
                // A sink takes its share.
                let share = match (sinks.get(of_group), lse.first()) {
                    (Some(sink), Some(lse)) => 1.0 / (1.0 + (sink - lse).exp()),
                    _ => 1.0,
                };
                sums.iter_mut().zip(&row[..=place]).for_each(|(sum, &weight)| *sum += weight * share);
            }
        }
    }
    Added { rows, new: new.len(), weights }
}
