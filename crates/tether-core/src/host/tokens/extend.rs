//! Causal attention of a block of new tokens over pages: runs of queries against what they see.

use rayon::prelude::*;

use super::super::matmul::{MatRef, matmul};
use super::super::softmax::softmax_rows;
use crate::{BlockTables, CoreError, DecodeProblem, HostTensor, TensorData};

/// Query tokens of a task.
const QUERIES: usize = 32;
/// Keys that are brought together at a time; they stay in the second-level cache.
const KEYS: usize = 256;

/// Output and log-sum-exps; arguments are checked.
pub(super) fn causal(
    problem: &DecodeProblem,
    tables: &BlockTables<'_>,
    (q, k, v): (&HostTensor, &HostTensor, &HostTensor),
    scale: f32,
    parallel: bool,
) -> Result<(HostTensor, HostTensor), CoreError> {
    let &DecodeProblem { sequences: tokens, kv_heads, group, head_dim_v, .. } = problem;
    let heads = problem.query_heads();
    let runs = tokens.div_ceil(QUERIES);
    let task = |i: usize| {
        let (run, head) = (i / kv_heads, i % kv_heads);
        let first = run * QUERIES;
        Run { problem, tables, head, first, count: QUERIES.min(tokens - first) }.attend(q, k, v, scale)
    };
    let parts: Vec<(Vec<f32>, Vec<f32>)> = if parallel {
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

/// A run of query tokens of one key head.
struct Run<'a> {
    problem: &'a DecodeProblem,
    tables: &'a BlockTables<'a>,
    head: usize,
    first: usize,
    count: usize,
}

impl Run<'_> {
    fn attend(&self, q: &HostTensor, k: &HostTensor, v: &HostTensor, scale: f32) -> (Vec<f32>, Vec<f32>) {
        let &DecodeProblem { sequences: tokens, group, head_dim_k, head_dim_v, page_heads, .. } =
            self.problem;
        let list = self.head / page_heads;
        let length = self.tables.lengths[list] as usize;
        // The first query of the run sees so many tokens, each further one one more.
        let seen = length - tokens + self.first + 1;
        let total = seen + self.count - 1;
        let rows = self.count * group;
        let mut queries = vec![0f32; rows * head_dim_k];
        for (i, row) in queries.chunks_exact_mut(group * head_dim_k).enumerate() {
            let from = ((self.first + i) * self.problem.query_heads() + self.head * group) * head_dim_k;
            q.data().widen_into(from, row);
            row.iter_mut().for_each(|x| *x *= scale);
        }
        let queries = MatRef::row_major(&queries, rows, head_dim_k, head_dim_k);
        let mut block = vec![0f32; KEYS.min(total) * head_dim_k.max(head_dim_v)];
        let mut weights = vec![0f32; rows * total];
        for start in (0..total).step_by(KEYS) {
            let count = KEYS.min(total - start);
            let keys = self.gather(k, start, &mut block[..count * head_dim_k]);
            let keys = MatRef::row_major(keys, count, head_dim_k, head_dim_k);
            matmul(&mut weights[start..], total, 0.0, queries, keys.transposed());
        }
        let mut lse = Vec::with_capacity(rows);
        for (i, row) in weights.chunks_exact_mut(total).enumerate() {
            let (visible, hidden) = row.split_at_mut(seen + i / group);
            let columns = visible.len();
            lse.extend(softmax_rows(visible, columns));
            hidden.fill(0.0);
        }
        let mut out = vec![0f32; rows * head_dim_v];
        for start in (0..total).step_by(KEYS) {
            let count = KEYS.min(total - start);
            let values = self.gather(v, start, &mut block[..count * head_dim_v]);
            let values = MatRef::row_major(values, count, head_dim_v, head_dim_v);
            let weights = MatRef::row_major(&weights[start..], rows, count, total);
            matmul(&mut out, head_dim_v, 1.0, weights, values);
        }
        (out, lse)
    }

    /// Rows of tokens from `start` on, as many as fit `block`; a page of one head is one piece.
    fn gather<'b>(&self, pool: &HostTensor, start: usize, block: &'b mut [f32]) -> &'b [f32] {
        let &DecodeProblem { page_size, page_heads, .. } = self.problem;
        let list = self.head / page_heads;
        let pages = &self.tables.pages[self.tables.indptr[list] as usize..];
        let dim = pool.shape()[3];
        let count = block.len() / dim.max(1);
        let mut done = 0;
        while done < count {
            let token = start + done;
            let run = if page_heads == 1 { (page_size - token % page_size).min(count - done) } else { 1 };
            let row = (pages[token / page_size] as usize * page_size + token % page_size) * page_heads
                + self.head % page_heads;
            pool.data().widen_into(row * dim, &mut block[done * dim..(done + run) * dim]);
            done += run;
        }
        block
    }
}
