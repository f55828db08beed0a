//! The plain cache: every token of every layer stays.

use rayon::prelude::*;
use tether_core::{CoreError, HostTensor, merge_partial};
use tether_dense::{MatRef, exp, matmul};

use crate::token_attention::{TokenAttention, TokenBlock};

/// Tokens of a block that one task attends with.
const QUERIES: usize = 64;
/// Keys that are scored at a time: with the scores of a task's queries they stay in the second-level cache.
const KEYS: usize = 256;
/// Blocks of at most this many tokens are split along the keys and not along the queries.
const FEW: usize = 4;
/// Keys of one task of such a block. Fixed, so that the result does not depend on the number of threads.
const SPLIT: usize = 1024;

/// A cache that keeps every token in `f32`, and exact causal attention over it.
///
/// What evicting caches are compared with. Work is spread over rayon's global pool; the result does not depend on its size.
#[derive(Clone, Debug, Default)]
pub struct DenseAttention {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    /// Head by head, `[tokens, head_dim]`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    tokens: usize,
}

impl DenseAttention {
    /// A cache without tokens, for a model of any size.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens that layer 0 holds.
    pub fn tokens(&self) -> usize {
        self.layers.first().map_or(0, |l| l.tokens)
    }

    /// Bytes of the keys and values that are held.
    pub fn bytes(&self) -> usize {
        let heads = self.layers.iter().flat_map(|l| l.keys.iter().chain(&l.values));
        heads.map(|head| size_of_val(head.as_slice())).sum()
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.layers.clear();
    }
}

/// Extents of a block, checked against each other.
#[derive(Clone, Copy)]
struct Extents {
    tokens: usize,
    query_heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Extents {
    fn of(block: &TokenBlock<'_>, out: &HostTensor) -> Result<Self, CoreError> {
        let mismatch = |what, expected: &[usize], got: &[usize]| {
            Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() })
        };
        let &[tokens, query_heads, dim] = block.q.shape() else {
            return mismatch("q", &[0, 0, 0], block.q.shape());
        };
        let &[_, kv_heads, _] = block.k.shape() else {
            return mismatch("k", &[tokens, 0, dim], block.k.shape());
        };
        let expected = [tokens, kv_heads, dim];
        for (what, x) in [("k", block.k), ("v", block.v)] {
            if x.shape() != expected {
                return mismatch(what, &expected, x.shape());
            }
        }
        if out.shape() != block.q.shape() {
            return mismatch("out", block.q.shape(), out.shape());
        }
        if kv_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            let requirement = "must be a multiple of kv_heads";
            return Err(CoreError::Geometry { field: "query_heads", value: query_heads, requirement });
        }
        Ok(Self { tokens, query_heads, kv_heads, dim })
    }

    fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

fn floats<'a>(what: &'static str, x: &'a HostTensor) -> Result<&'a [f32], CoreError> {
    x.as_f32().ok_or(CoreError::DTypeMismatch { what, expected: tether_core::DType::F32, got: x.dtype() })
}

impl TokenAttention for DenseAttention {
    type Error = CoreError;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), CoreError> {
        let extents = Extents::of(block, out)?;
        let (q, k, v) = (floats("q", block.q)?, floats("k", block.k)?, floats("v", block.v)?);
        let got = out.dtype();
        let Some(out) = out.as_f32_mut() else {
            return Err(CoreError::DTypeMismatch { what: "out", expected: tether_core::DType::F32, got });
        };
        if self.layers.len() <= block.layer {
            self.layers.resize(block.layer + 1, Layer::default());
        }
        let layer = &mut self.layers[block.layer];
        layer.append(&extents, k, v)?;
        if extents.tokens <= FEW {
            layer.attend_few(&extents, q, out)
        } else {
            layer.attend_many(&extents, q, out);
            Ok(())
        }
    }
}

impl Layer {
    fn append(&mut self, extents: &Extents, k: &[f32], v: &[f32]) -> Result<(), CoreError> {
        let &Extents { tokens, kv_heads, dim, .. } = extents;
        if self.keys.is_empty() {
            self.keys.resize(kv_heads, Vec::new());
            self.values.resize(kv_heads, Vec::new());
        }
        if self.keys.len() != kv_heads || self.keys[0].len() != self.tokens * dim {
            let cached = [self.tokens, self.keys.len(), self.keys[0].len() / self.tokens.max(1)];
            let got = [tokens, kv_heads, dim].as_slice().into();
            return Err(CoreError::ShapeMismatch { what: "k", expected: cached.into(), got });
        }
        for (cache, new) in [(&mut self.keys, k), (&mut self.values, v)] {
            for (head, cached) in cache.iter_mut().enumerate() {
                let rows = new.chunks_exact(kv_heads * dim);
                rows.for_each(|row| cached.extend_from_slice(&row[head * dim..(head + 1) * dim]));
            }
        }
        self.tokens += tokens;
        Ok(())
    }

    /// A task for each run of queries.
    fn attend_many(&self, extents: &Extents, q: &[f32], out: &mut [f32]) {
        let &Extents { tokens, query_heads, kv_heads, dim } = extents;
        let (group, row) = (extents.group(), query_heads * dim);
        let past = self.tokens - tokens;
        let tasks = out.par_chunks_mut(QUERIES * row).zip(q.par_chunks(QUERIES * row)).enumerate();
        tasks.for_each_init(Partial::default, |partial, (task, (out, q))| {
            let first = past + task * QUERIES;
            for head in 0..kv_heads {
                let rows = Rows { q, row, first_head: head * group, group, dim };
                partial.start(&rows);
                let seen = first + q.len() / row;
                partial.add(&self.keys[head], &self.values[head], 0..seen, |i| first + i / group + 1);
                partial.finish();
                let heads = head * group * dim..(head + 1) * group * dim;
                let sums = partial.sums.chunks_exact(group * dim);
                out.chunks_exact_mut(row).zip(sums).for_each(|(o, s)| o[heads.clone()].copy_from_slice(s));
            }
        });
    }

    /// A task for each run of keys of a head; their results are merged in order.
    fn attend_few(&self, extents: &Extents, q: &[f32], out: &mut [f32]) -> Result<(), CoreError> {
        let &Extents { tokens, query_heads, kv_heads, dim } = extents;
        let (group, row) = (extents.group(), query_heads * dim);
        let past = self.tokens - tokens;
        let splits = self.tokens.div_ceil(SPLIT);
        let tasks = (0..kv_heads * splits).into_par_iter().map(|task| {
            let (head, start) = (task / splits, task % splits * SPLIT);
            let mut partial = Partial::default();
            partial.start(&Rows { q, row, first_head: head * group, group, dim });
            let keys = start..self.tokens.min(start + SPLIT);
            partial.add(&self.keys[head], &self.values[head], keys, |i| past + i / group + 1);
            let lse = partial.finish();
            (partial.sums, lse)
        });
        let parts: Vec<(Vec<f32>, Vec<f32>)> = tasks.collect();
        for (head, parts) in parts.chunks(splits).enumerate() {
            let (mut sums, mut lse) = parts[0].clone();
            for (other, other_lse) in &parts[1..] {
                merge_partial((&mut sums, &mut lse), (other, other_lse))?;
            }
            let heads = head * group * dim..(head + 1) * group * dim;
            let sums = sums.chunks_exact(group * dim);
            out.chunks_exact_mut(row).zip(sums).for_each(|(o, s)| o[heads.clone()].copy_from_slice(s));
        }
        Ok(())
    }
}

/// The queries of some tokens that read one key head.
struct Rows<'a> {
    /// Whole tokens, `row` elements each.
    q: &'a [f32],
    row: usize,
    first_head: usize,
    group: usize,
    dim: usize,
}

/// Attention of some queries over the keys seen so far, in a running softmax.
#[derive(Default)]
struct Partial {
    dim: usize,
    /// `[tokens, group, dim]`, scaled.
    queries: Vec<f32>,
    /// As `queries`, not yet divided by `total`.
    sums: Vec<f32>,
    highest: Vec<f32>,
    total: Vec<f32>,
    scores: Vec<f32>,
}

impl Partial {
    fn start(&mut self, rows: &Rows<'_>) {
        let scale = 1.0 / (rows.dim as f32).sqrt();
        let heads = rows.first_head * rows.dim..(rows.first_head + rows.group) * rows.dim;
        self.dim = rows.dim;
        self.queries.clear();
        let tokens = rows.q.chunks_exact(rows.row);
        self.queries.extend(tokens.flat_map(|token| &token[heads.clone()]).map(|x| x * scale));
        let count = self.queries.len() / rows.dim;
        for (buffer, len, value) in [
            (&mut self.sums, self.queries.len(), 0.0),
            (&mut self.highest, count, f32::NEG_INFINITY),
            (&mut self.total, count, 0.0),
        ] {
            buffer.clear();
            buffer.resize(len, value);
        }
    }

    /// Query `i` sees the keys before `limit(i)`, which grows with `i`.
    fn add(
        &mut self,
        keys: &[f32],
        values: &[f32],
        range: std::ops::Range<usize>,
        limit: impl Fn(usize) -> usize,
    ) {
        let (dim, rows) = (self.dim, self.total.len());
        let arch = pulp::Arch::new();
        for start in range.clone().step_by(KEYS) {
            let count = KEYS.min(range.end - start);
            let block = |x| MatRef::row_major(x, count, dim, dim);
            self.scores.resize(rows * KEYS, 0.0);
            let queries = MatRef::row_major(&self.queries, rows, dim, dim);
            matmul(&mut self.scores, count, 0.0, queries, block(&keys[start * dim..]).transposed());
            for (row, scores) in self.scores.chunks_exact_mut(count).take(rows).enumerate() {
                let seen = limit(row).saturating_sub(start).min(count);
                let (scores, hidden) = scores.split_at_mut(seen);
                hidden.fill(0.0);
                if seen > 0 {
                    let before = self.highest[row];
                    let (highest, sum) = arch.dispatch(Weights { scores, before });
                    if highest > before {
                        let scale = (before - highest).exp();
                        self.total[row] *= scale;
                        self.sums[row * dim..(row + 1) * dim].iter_mut().for_each(|x| *x *= scale);
                        self.highest[row] = highest;
                    }
                    self.total[row] += sum;
                }
            }
            let weights = MatRef::row_major(&self.scores, rows, count, count);
            matmul(&mut self.sums, dim, 1.0, weights, block(&values[start * dim..]));
        }
    }

    /// Divides by the totals; returns the logarithm of each row's sum of exponentials, minus infinity where no key was seen.
    fn finish(&mut self) -> Vec<f32> {
        for (sums, total) in self.sums.chunks_exact_mut(self.dim).zip(&self.total) {
            if *total > 0.0 {
                let scale = 1.0 / total;
                sums.iter_mut().for_each(|x| *x *= scale);
            }
        }
        self.highest.iter().zip(&self.total).map(|(highest, total)| highest + total.ln()).collect()
    }
}

/// Turns a row of logits into weights relative to the highest so far; returns that, and the sum of the weights.
struct Weights<'a> {
    scores: &'a mut [f32],
    before: f32,
}

const LANES: usize = 16;

impl pulp::WithSimd for Weights<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> (f32, f32) {
        // Independent lanes, because a float reduction in order cannot be vectorised.
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (wide, rest) = self.scores.as_chunks::<LANES>();
        for chunk in wide {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let highest = lanes.iter().chain(rest).fold(self.before, |m, &x| if x > m { x } else { m });
        let mut lanes = [0f32; LANES];
        let (wide, rest) = self.scores.as_chunks_mut::<LANES>();
        for chunk in wide {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - highest);
                *lane += *x;
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for x in rest {
            *x = exp(*x - highest);
            sum += *x;
        }
        (highest, sum)
    }
}
