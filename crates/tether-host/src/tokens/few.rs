//! Attention of a few queries over pages. Keys and values are read once and where they lie: to bring them together for a matrix product, and to
//! pack them inside it, would cost more than the product.

use super::paged::{Attended, PagedHead, Rows};
use super::shaped::Logits;
use tether_core::Side;

/// Queries of a head at most; more are a matrix product's work.
pub(super) const FEW: usize = 8;
/// Queries that are multiplied with a row while it is in registers.
const TOGETHER: usize = 4;
/// Numbers of a cache line.
const CACHE_LINE: usize = 16;

/// Output `[rows, dims.1]` and log-sum-exps of scaled queries `[rows, dims.0]`, each of which sees all tokens of `head`, at least one. The first one is
/// token `first` to `logits`.
pub(super) fn attend_few(
    head: &PagedHead<'_>,
    queries: &[f32],
    dims: (usize, usize),
    rows: &impl Rows,
    (logits, first): (&impl Logits, usize),
) -> Attended {
    let arch = pulp::Arch::new();
    let (count, total) = (queries.len() / dims.0.max(1), head.tokens);
    let mut weights = vec![0f32; count * total];
    head.each_run((Side::Keys, dims.0), rows, |start, keys| {
        arch.dispatch(Together(Scores { queries, keys, into: &mut weights[start..], stride: total }));
    });
    let lse = logits.weigh((0, first), &mut weights, total);
    let mut out = vec![0f32; count * dims.1];
    head.each_run((Side::Values, dims.1), rows, |start, values| {
        arch.dispatch(Together(Sums { weights: &weights[start..], stride: total, values, into: &mut out }));
    });
    (out, lse)
}

/// Rows of `dim` numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub dim: usize,
    /// The run after it, `stride` alike; nothing after the last.
    pub next: &'a [f32],
}

impl<'a> Run<'a> {
    /// Asks for row `row` of what comes next: a processor fetches ahead by itself only inside a page of memory, and those of a pool are hardly longer.
    #[inline(always)]
    fn fetch(self, row: usize) {
        let Some(row) = self.next.get(row * self.stride..row * self.stride + self.dim) else { return };
        for line in row.chunks(CACHE_LINE) {
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "an instruction that only hints")]
            // SAFETY: a prefetch reads and writes nothing that a program can see, at any address.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
            }
            // Elsewhere there is no stable instruction for it.
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        }
    }

    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        self.data.chunks(self.stride).map(move |row| &row[..self.dim])
    }
}

/// What is done for queries of which a few share what is loaded of a run.
trait OfQueries {
    fn queries(&self) -> usize;

    /// Does it for the `N` queries from `first` on.
    fn of<S: pulp::Simd, const N: usize>(&mut self, simd: S, first: usize);
}

/// All queries, [`TOGETHER`] at a time.
struct Together<T>(T);

// A type with an inlined method and not a closure, whose call is not always inlined into the function that has the vector instructions.
impl<T: OfQueries> pulp::WithSimd for Together<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        let queries = self.0.queries();
        for first in (0..queries).step_by(TOGETHER) {
            match queries - first {
                1 => self.0.of::<S, 1>(simd, first),
                2 => self.0.of::<S, 2>(simd, first),
                3 => self.0.of::<S, 3>(simd, first),
                _ => self.0.of::<S, TOGETHER>(simd, first),
            }
        }
    }
}

/// Products of all queries, `keys.dim` numbers each, with a run of keys: `into[query * stride + key]`.
struct Scores<'a> {
    queries: &'a [f32],
    keys: Run<'a>,
    into: &'a mut [f32],
    stride: usize,
}

impl OfQueries for Scores<'_> {
    fn queries(&self) -> usize {
        self.queries.len() / self.keys.dim
    }

    #[inline(always)]
    fn of<S: pulp::Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let (dim, stride) = (self.keys.dim, self.keys.stride);
        let wide = dim / S::F32_LANES * S::F32_LANES;
        let mut queries: [&[S::f32s]; N] = [&[]; N];
        for (i, query) in queries.iter_mut().enumerate() {
            *query = S::as_simd_f32s(&self.queries[(first + i) * dim..][..wide]).0;
        }
        // Two keys share what is loaded of the queries.
        let mut token = 0;
        for pair in self.keys.data.chunks(2 * stride) {
            self.keys.fetch(token);
            self.keys.fetch(token + 1);
            let key = S::as_simd_f32s(&pair[..wide]).0;
            if pair.len() > stride {
                let other = S::as_simd_f32s(&pair[stride..][..wide]).0;
                self.score::<S, N, 2>(simd, &queries, [key, other], (first, token));
            } else {
                self.score::<S, N, 1>(simd, &queries, [key], (first, token));
            }
            token += 2;
        }
        for query in first..first + N {
            let rest = &self.queries[query * dim..][wide..dim];
            if rest.is_empty() {
                break;
            }
            for (key, score) in self.keys.rows().zip(&mut self.into[query * self.stride..]) {
                *score += rest.iter().zip(&key[wide..]).map(|(q, k)| q * k).sum::<f32>();
            }
        }
    }
}

impl Scores<'_> {
    // Loops and no closures: those are not always inlined here either.
    #[inline(always)]
    fn score<S: pulp::Simd, const N: usize, const K: usize>(
        &mut self,
        simd: S,
        queries: &[&[S::f32s]; N],
        keys: [&[S::f32s]; K],
        (first, token): (usize, usize),
    ) {
        let mut lanes = [[simd.splat_f32s(0.0); K]; N];
        for j in 0..keys[0].len() {
            for k in 0..K {
                let key = keys[k][j];
                for n in 0..N {
                    lanes[n][k] = simd.mul_add_f32s(queries[n][j], key, lanes[n][k]);
                }
            }
        }
        for (n, lanes) in lanes.iter().enumerate() {
            let into = &mut self.into[(first + n) * self.stride + token..][..K];
            for (into, lanes) in into.iter_mut().zip(lanes) {
                *into = simd.reduce_sum_f32s(*lanes);
            }
        }
    }
}

/// Adds a run of values, `weights[query * stride + value]` times, to the sums of all queries, `values.dim` numbers each.
struct Sums<'a> {
    weights: &'a [f32],
    stride: usize,
    values: Run<'a>,
    into: &'a mut [f32],
}

impl OfQueries for Sums<'_> {
    fn queries(&self) -> usize {
        self.into.len() / self.values.dim
    }

    #[inline(always)]
    fn of<S: pulp::Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let dim = self.values.dim;
        let columns = dim / S::F32_LANES;
        let mut column = 0;
        // As many as there are registers for.
        while S::REGISTER_COUNT >= 32 && columns - column >= 4 {
            self.columns::<S, N, 4>(simd, first, column);
            column += 4;
        }
        while columns - column >= 2 {
            self.columns::<S, N, 2>(simd, first, column);
            column += 2;
        }
        if column < columns {
            self.columns::<S, N, 1>(simd, first, column);
        }
        for column in columns * S::F32_LANES..dim {
            for query in first..first + N {
                let weights = &self.weights[query * self.stride..];
                let sum: f32 = self.values.rows().zip(weights).map(|(value, w)| value[column] * w).sum();
                self.into[query * dim + column] += sum;
            }
        }
    }
}

impl Sums<'_> {
    /// The sums of `C` vectors of columns stay in registers over all rows.
    #[inline(always)]
    fn columns<S: pulp::Simd, const N: usize, const C: usize>(
        &mut self,
        simd: S,
        first: usize,
        column: usize,
    ) {
        let dim = self.values.dim;
        let mut sums = [[simd.splat_f32s(0.0); C]; N];
        let count = self.values.data.len().div_ceil(self.values.stride);
        let mut weights: [&[f32]; N] = [&[]; N];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = &self.weights[(first + i) * self.stride..][..count];
        }
        let place = column * S::F32_LANES..(column + C) * S::F32_LANES;
        for (token, value) in self.values.data.chunks(self.values.stride).enumerate() {
            let value = S::as_simd_f32s(&value[place.clone()]).0;
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = simd.splat_f32s(weights[token]);
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = simd.mul_add_f32s(weight, *value, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let into = S::as_mut_simd_f32s(&mut self.into[(first + i) * dim..][..dim]).0;
            for (into, sum) in into[column..column + C].iter_mut().zip(sums) {
                *into = simd.add_f32s(*into, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FEW, attend_few};
    use crate::tokens::Pools;
    use crate::tokens::paged::{PagedHead, Rows};
    use crate::tokens::shaped::Plain;
    use tether_core::{DType, HostTensor, Side, TensorData};

    /// Numbers between -1 and 1.
    fn tensor(dtype: DType, shape: &[usize], seed: usize) -> HostTensor {
        let numbers: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0)
            .collect();
        HostTensor::new(shape, TensorData::narrowed(dtype, &numbers)).unwrap()
    }

    #[test]
    fn agrees_with_the_definition() {
        for (rows, dims, tokens, page_size, page_heads) in [
            (1usize, (1, 3), 1usize, 1usize, 1),
            (2, (19, 64), 5, 16, 1),
            (3, (64, 80), 100, 16, 1),
            (3, (64, 64), 33, 16, 2),
            (4, (128, 33), 37, 7, 3),
            (7, (40, 24), 65, 16, 2),
            (FEW, (96, 256), 90, 128, 1),
        ] {
            // In no order, and with pages between them that belong to nobody.
            let count = tokens.div_ceil(page_size);
            let pages: Vec<u32> = (0..count).rev().map(|i| 2 * i as u32 + 1).collect();
            let (all, place) = (2 * count, page_heads - 1);
            let head = PagedHead { pages: &pages, tokens, page_size, page_heads, place };
            let queries = tensor(DType::F32, &[rows, dims.0], 3).to_f32_vec();
            for dtype in [DType::F32, DType::BF16] {
                let pool = |dim, seed| tensor(dtype, &[all, page_size, page_heads, dim], seed);
                let (keys, values) = (pool(dims.0, 1), pool(dims.1, 2));
                let pools = Pools { keys: &keys, values: &values };
                assert_eq!(pools.lend(Side::Keys).is_some(), dtype == DType::F32);
                let (out, lse) = attend_few(&head, &queries, dims, &pools, (&Plain, 0));
                let row = |x: &HostTensor, t: usize| -> Vec<f64> {
                    let slot = pages[t / page_size] as usize * page_size + t % page_size;
                    let (dim, row) = (x.shape()[3], slot * page_heads + place);
                    x.to_f32_vec()[row * dim..][..dim].iter().map(|&x| f64::from(x)).collect()
                };
                for (r, query) in queries.chunks_exact(dims.0).enumerate() {
                    let logit =
                        |t| query.iter().zip(row(&keys, t)).map(|(q, k)| f64::from(*q) * k).sum::<f64>();
                    let logits: Vec<f64> = (0..tokens).map(logit).collect();
                    let total: f64 = logits.iter().map(|x| x.exp()).sum();
                    assert!((f64::from(lse[r]) - total.ln()).abs() < 1e-5, "{} for {}", lse[r], total.ln());
                    let mut sums = vec![0f64; dims.1];
                    for (t, logit) in logits.iter().enumerate() {
                        let weight = logit.exp() / total;
                        sums.iter_mut().zip(row(&values, t)).for_each(|(sum, v)| *sum += weight * v);
                    }
                    for (got, sum) in out[r * dims.1..][..dims.1].iter().zip(sums) {
                        assert!((f64::from(*got) - sum).abs() < 1e-5, "{got} for {sum}");
                    }
                }
            }
        }
    }
}
