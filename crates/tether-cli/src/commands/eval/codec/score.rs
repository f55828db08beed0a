//! What a change of keys and values does to attention.

use tether_core::host::{MatRef, matmul, softmax_rows};

use super::record::HeadTrace;

/// A head with other keys and values.
pub(crate) struct Changed<'a> {
    pub(crate) head: &'a HeadTrace,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    /// Tokens that are not there any more.
    pub(crate) dropped: Vec<usize>,
}

/// Means over queries, query heads and layers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    /// Kullback-Leibler divergence of the attention, in nats.
    pub(crate) divergence: f64,
    /// Length of the output's change, for each unit of the output's.
    pub(crate) error: f64,
    /// Squared length of the output's change.
    pub(crate) squared: f64,
}

/// The last `queries` queries of each head, each over the tokens before it and its own.
pub(crate) fn scores(all: &[Changed<'_>], queries: usize) -> Score {
    let mut sum = Score::default();
    let mut rows = 0usize;
    for changed in all {
        let head = changed.head;
        for q in &head.q {
            let (weights, out) = attend(head, q, &head.k, &head.v, &[], queries);
            let (other, other_out) =
                attend(head, q, &changed.keys, &changed.values, &changed.dropped, queries);
            let tokens = head.tokens();
            for row in 0..queries {
                let (p, o) = (&weights[row * tokens..][..tokens], &other[row * tokens..][..tokens]);
                let divergence = |(p, o): (&f32, &f32)| {
                    let (p, o) = (f64::from(*p), f64::from(*o).max(1e-30));
                    if p > 0.0 { p * (p / o).ln() } else { 0.0 }
                };
                sum.divergence += p.iter().zip(o).map(divergence).sum::<f64>();
                let (a, b) = (&out[row * head.dim..][..head.dim], &other_out[row * head.dim..][..head.dim]);
                let squared = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
                let change = squared(&mut a.iter().zip(b).map(|(a, b)| a - b));
                sum.squared += change;
                sum.error += (change / squared(&mut a.iter().copied()).max(1e-30)).sqrt();
            }
            rows += queries;
        }
    }
    let rows = rows.max(1) as f64;
    Score { divergence: sum.divergence / rows, error: sum.error / rows, squared: sum.squared / rows }
}

/// Attention `[queries, tokens]` and outputs `[queries, dim]`.
fn attend(
    head: &HeadTrace,
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    dropped: &[usize],
    queries: usize,
) -> (Vec<f32>, Vec<f32>) {
    let (tokens, dim) = (head.tokens(), head.dim);
    let scaled: Vec<f32> = q[(tokens - queries) * dim..].iter().map(|x| x * head.scale()).collect();
    let mut weights = vec![0f32; queries * tokens];
    let matrix = |x, rows, columns| MatRef::row_major(x, rows, columns, columns);
    matmul(&mut weights, tokens, 0.0, matrix(&scaled, queries, dim), matrix(keys, tokens, dim).transposed());
    for (i, row) in weights.chunks_exact_mut(tokens).enumerate() {
        dropped.iter().for_each(|&token| row[token] = -1e30);
        let (seen, hidden) = row.split_at_mut(tokens - queries + i + 1);
        let columns = seen.len();
        softmax_rows(seen, columns);
        hidden.fill(0.0);
    }
    let mut out = vec![0f32; queries * dim];
    matmul(&mut out, dim, 0.0, matrix(&weights, queries, tokens), matrix(values, tokens, dim));
    (weights, out)
}
