//! Attention of a few queries over pages. Keys and values are read once and where they lie: to bring them together for a matrix product, and to
//! pack them inside it, would cost more than the product.

use super::super::softmax::softmax_rows;
use super::paged::{Attended, PagedHead, Rows};
use crate::engine::Side;

/// Queries of a head at most; more are a matrix product's work.
pub(super) const FEW: usize = 8;
/// Queries that are multiplied with a row while it is in registers.
const TOGETHER: usize = 4;

/// Output `[rows, dims.1]` and log-sum-exps of scaled queries `[rows, dims.0]`, each of which sees all tokens of `head`, at least one.
pub(super) fn attend_few(
    head: &PagedHead<'_>,
    queries: &[f32],
    dims: (usize, usize),
    rows: &impl Rows,
) -> Attended {
    let arch = pulp::Arch::new();
    let (count, total) = (queries.len() / dims.0.max(1), head.tokens);
    let mut weights = vec![0f32; count * total];
    head.each_run((Side::Keys, dims.0), rows, |start, keys| {
        arch.dispatch(Scores { queries, keys, into: &mut weights[start..], stride: total });
    });
    let lse = softmax_rows(&mut weights, total);
    let mut out = vec![0f32; count * dims.1];
    head.each_run((Side::Values, dims.1), rows, |start, values| {
        arch.dispatch(Sums { weights: &weights[start..], stride: total, values, into: &mut out });
    });
    (out, lse)
}

/// Rows of `dim` numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub dim: usize,
}

impl<'a> Run<'a> {
    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        self.data.chunks(self.stride).map(move |row| &row[..self.dim])
    }
}

/// Products of all queries, `keys.dim` numbers each, with a run of keys: `into[query * stride + key]`.
struct Scores<'a> {
    queries: &'a [f32],
    keys: Run<'a>,
    into: &'a mut [f32],
    stride: usize,
}

// Types with an inlined method and not closures, whose calls are not always inlined into the function that has the vector instructions.
impl pulp::WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        for first in (0..self.queries.len() / self.keys.dim).step_by(TOGETHER) {
            match self.queries.len() / self.keys.dim - first {
                1 => self.of::<S, 1>(simd, first),
                2 => self.of::<S, 2>(simd, first),
                3 => self.of::<S, 3>(simd, first),
                _ => self.of::<S, TOGETHER>(simd, first),
            }
        }
    }
}

impl Scores<'_> {
    #[inline(always)]
    fn of<S: pulp::Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let dim = self.keys.dim;
        let queries: [(&[S::f32s], &[f32]); N] =
            std::array::from_fn(|i| S::as_simd_f32s(&self.queries[(first + i) * dim..][..dim]));
        for (token, key) in self.keys.rows().enumerate() {
            let (wide, rest) = S::as_simd_f32s(key);
            let mut lanes = [simd.splat_f32s(0.0); N];
            for (j, key) in wide.iter().enumerate() {
                for (lanes, query) in lanes.iter_mut().zip(&queries) {
                    *lanes = simd.mul_add_f32s(query.0[j], *key, *lanes);
                }
            }
            for (i, (lanes, query)) in lanes.iter().zip(&queries).enumerate() {
                let rest: f32 = query.1.iter().zip(rest).map(|(q, k)| q * k).sum();
                self.into[(first + i) * self.stride + token] = simd.reduce_sum_f32s(*lanes) + rest;
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

impl pulp::WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, simd: S) {
        for first in (0..self.into.len() / self.values.dim).step_by(TOGETHER) {
            match self.into.len() / self.values.dim - first {
                1 => self.of::<S, 1>(simd, first),
                2 => self.of::<S, 2>(simd, first),
                3 => self.of::<S, 3>(simd, first),
                _ => self.of::<S, TOGETHER>(simd, first),
            }
        }
    }
}

impl Sums<'_> {
    #[inline(always)]
    fn of<S: pulp::Simd, const N: usize>(&mut self, simd: S, first: usize) {
        let dim = self.values.dim;
        let (columns, _) = S::as_simd_f32s(&self.values.data[..dim]);
        let columns = columns.len();
        let pairs = columns / 2 * 2;
        for column in (0..pairs).step_by(2) {
            self.columns::<S, N, 2>(simd, first, column);
        }
        for column in pairs..columns {
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
        let weights: [&[f32]; N] = std::array::from_fn(|i| &self.weights[(first + i) * self.stride..]);
        for (token, value) in self.values.rows().enumerate() {
            let value = &S::as_simd_f32s(value).0[column..column + C];
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
    use crate::engine::Side;
    use crate::host::tokens::paged::PagedHead;

    #[test]
    fn agrees_with_the_definition() {
        let number = |i: usize, seed: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
        for (rows, dims, tokens, page_size, page_heads) in [
            (1, (1, 3), 1, 1, 1),
            (2, (19, 64), 5, 16, 1),
            (3, (64, 80), 100, 16, 1),
            (4, (128, 33), 37, 7, 3),
            (7, (40, 24), 65, 16, 2),
            (FEW, (96, 256), 90, 128, 1),
        ] {
            let pages: Vec<u32> =
                (0..tokens.div_ceil(page_size)).map(|i| (i * 5 % 3 + i * 3) as u32).collect();
            let head = PagedHead { pages: &pages, tokens, page_size, page_heads, place: page_heads - 1 };
            let numbers = |side, row: usize, dim: usize| {
                (0..dim).map(move |i| number(row * dim + i, if side == Side::Keys { 1 } else { 2 }))
            };
            let queries: Vec<f32> = (0..rows * dims.0).map(|i| number(i, 3)).collect();
            let load = |side, row: usize, into: &mut [f32]| {
                let dim = if side == Side::Keys { dims.0 } else { dims.1 };
                for (i, into) in into.chunks_exact_mut(dim).enumerate() {
                    into.iter_mut().zip(numbers(side, row + i, dim)).for_each(|(into, x)| *into = x);
                }
            };
            let (out, lse) = attend_few(&head, &queries, dims, &load);
            for (r, query) in queries.chunks_exact(dims.0).enumerate() {
                let slot = |t: usize| {
                    (pages[t / page_size] as usize * page_size + t % page_size) * page_heads + page_heads - 1
                };
                let logit = |t: usize| -> f64 {
                    query
                        .iter()
                        .zip(numbers(Side::Keys, slot(t), dims.0))
                        .map(|(q, k)| f64::from(*q) * f64::from(k))
                        .sum()
                };
                let total: f64 = (0..tokens).map(|t| logit(t).exp()).sum();
                assert!((f64::from(lse[r]) - total.ln()).abs() < 1e-5, "{} for {}", lse[r], total.ln());
                let mut sums = vec![0f64; dims.1];
                for t in 0..tokens {
                    let weight = logit(t).exp() / total;
                    let values = numbers(Side::Values, slot(t), dims.1);
                    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += weight * f64::from(v));
                }
                for (got, sum) in out[r * dims.1..][..dims.1].iter().zip(sums) {
                    assert!((f64::from(*got) - sum).abs() < 1e-5, "{got} for {sum}");
                }
            }
        }
    }
}
