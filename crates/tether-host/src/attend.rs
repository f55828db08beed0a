//! Block attention on the host: softmax in one pass over key blocks.

use std::cell::RefCell;

use crate::store::HostStore;
use tether_core::{AttendTable, Side};
use tether_dense::{MatRef, exp, matmul};

/// Keys that are scored at a time. A block of scores for a few hundred queries stays in the second-level cache.
const KEY_BLOCK: usize = 256;
/// Query rows that are scored at a time.
const QUERY_BLOCK: usize = 192;

/// Working memory of one head, kept per thread.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    row_max: Vec<f32>,
    row_sum: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Query side of one call: `q` holds `tokens` tokens of `heads` heads for every sequence, rotated where keys are.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) q: &'a [f32],
    pub(super) tokens: usize,
    pub(super) heads: usize,
}

/// What a sequence attends to: its table, and at which place of the rotated keys it begins, where the store has any.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) store: &'a HostStore,
    pub(super) table: AttendTable<'a>,
    pub(super) rotated_from: Option<usize>,
}

/// Attention of the query heads that share key head `kv_head` of sequence `sequence`. `emit(row_token, query_head, values)` receives
/// the result token by token.
pub(super) fn attend_group(
    Keys { store, table, rotated_from }: Keys<'_>,
    queries: Queries<'_>,
    (sequence, kv_head): (usize, usize),
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let spec = &store.spec;
    let (dk, dv, tokens_per_unit) = (spec.head_dim_k, spec.head_dim_v, spec.tokens_per_unit);
    let group = queries.heads / spec.kv_heads;
    let rows = group * queries.tokens;
    SCRATCH.with_borrow_mut(|s| {
        s.queries.resize(rows * dk, 0.0);
        let scale = 1.0 / (dk as f32).sqrt();
        for (row, packed) in s.queries.chunks_exact_mut(dk).enumerate() {
            let (head, token) = (kv_head * group + row / queries.tokens, row % queries.tokens);
            let start = ((sequence * queries.tokens + token) * queries.heads + head) * dk;
            packed.copy_from_slice(&queries.q[start..start + dk]);
            packed.iter_mut().for_each(|x| *x *= scale);
        }
        s.sums.clear();
        s.sums.resize(rows * dv, 0.0);
        s.row_sum.clear();
        s.row_sum.resize(rows, 0.0);
        s.row_max.clear();
        s.row_max.resize(rows, f32::NEG_INFINITY);

        let rotated = store.rotated.as_ref().zip(rotated_from);
        let total = table.slots.len() * tokens_per_unit;
        for start in (0..total).step_by(KEY_BLOCK) {
            let block = KEY_BLOCK.min(total - start);
            s.keys.resize(KEY_BLOCK * dk, 0.0);
            s.values.resize(KEY_BLOCK * dv, 0.0);
            for (i, (key, value)) in
                s.keys.chunks_exact_mut(dk).zip(s.values.chunks_exact_mut(dv)).take(block).enumerate()
            {
                let (entry, token) = ((start + i) / tokens_per_unit, (start + i) % tokens_per_unit);
                match rotated {
                    Some((keys, place)) => {
                        key.copy_from_slice(keys.head(spec, place * tokens_per_unit + start + i, kv_head));
                    }
                    None => store.load_head(Side::Keys, table.slots[entry], token, kv_head, key),
                }
                store.load_head(Side::Values, table.slots[entry], token, kv_head, value);
            }
            let keys = MatRef::row_major(&s.keys, block, dk, dk);
            let values = MatRef::row_major(&s.values, block, dv, dv);
            for first in (0..rows).step_by(QUERY_BLOCK) {
                let count = QUERY_BLOCK.min(rows - first);
                s.scores.resize(QUERY_BLOCK * KEY_BLOCK, 0.0);
                let packed = MatRef::row_major(&s.queries[first * dk..], count, dk, dk);
                matmul(&mut s.scores, block, 0.0, packed, keys.transposed());
                let sums = &mut s.sums[first * dv..(first + count) * dv];
                pulp::Arch::new().dispatch(SoftmaxBlock {
                    scores: &mut s.scores[..count * block],
                    columns: block,
                    row_max: &mut s.row_max[first..first + count],
                    row_sum: &mut s.row_sum[first..first + count],
                    sums,
                    dim: dv,
                });
                let weights = MatRef::row_major(&s.scores, count, block, block);
                matmul(&mut s.sums[first * dv..], dv, 1.0, weights, values);
            }
        }
        for (row, (sum, total)) in s.sums.chunks_exact_mut(dv).zip(&s.row_sum).enumerate() {
            let scale = 1.0 / total;
            sum.iter_mut().for_each(|x| *x *= scale);
            emit(row % queries.tokens, kv_head * group + row / queries.tokens, sum);
        }
    });
}

/// One step of the running softmax: turns scores into weights relative to the new row maximum and rescales what was summed before.
struct SoftmaxBlock<'a> {
    scores: &'a mut [f32],
    columns: usize,
    row_max: &'a mut [f32],
    row_sum: &'a mut [f32],
    sums: &'a mut [f32],
    dim: usize,
}

const LANES: usize = 16;

// A type with an inlined method and not a closure, whose call is not always inlined into the function that has the vector
// instructions.
impl pulp::WithSimd for SoftmaxBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let rows = self.scores.chunks_exact_mut(self.columns).zip(self.sums.chunks_exact_mut(self.dim));
        for ((row, sums), (max, total)) in rows.zip(self.row_max.iter_mut().zip(self.row_sum.iter_mut())) {
            // Independent lanes, because a float reduction in order cannot be vectorised.
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let (wide, rest) = row.as_chunks::<LANES>();
            for chunk in wide {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = if x > *lane { x } else { *lane };
                }
            }
            let new_max = lanes.iter().chain(rest).fold(*max, |m, &x| if x > m { x } else { m });
            let (wide, rest) = row.as_chunks_mut::<LANES>();
            let mut lanes = [0f32; LANES];
            for chunk in wide {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *x = exp(*x - new_max);
                    *lane += *x;
                }
            }
            let mut sum: f32 = lanes.iter().sum();
            for x in rest {
                *x = exp(*x - new_max);
                sum += *x;
            }
            if new_max > *max {
                let scale = exp(*max - new_max);
                *total *= scale;
                sums.iter_mut().for_each(|x| *x *= scale);
                *max = new_max;
            }
            *total += sum;
        }
    }
}
