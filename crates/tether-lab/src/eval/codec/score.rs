//! What a change of keys and values does to attention.

use tether_dense::{MatRef, matmul, softmax_rows};

use super::record::HeadTrace;

/// A head with other keys and values.
pub(crate) struct Changed<'a> {
    pub(crate) head: &'a HeadTrace,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    /// Tokens that are not there any more.
    pub(crate) dropped: Vec<usize>,
}

/// Means over layers and key heads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    /// Kullback-Leibler divergence of the attention, in nats, the mean over queries.
    pub(crate) divergence: f64,
    /// Length of the outputs' change, all queries of a key head taken as one vector, for each unit of the outputs' own.
    pub(crate) error: f64,
    /// Squared length of an output's change, the mean over queries.
    pub(crate) squared: f64,
}

/// The last `queries` queries of each head, each over the tokens that it sees.
pub(crate) fn scores(all: &[Changed<'_>], queries: usize) -> Score {
    let mut mean = Score::default();
    for changed in all {
        let head = changed.head;
        let (mut divergence, mut change, mut size) = (0f64, 0f64, 0f64);
        for q in &head.q {
            let (weights, out) = attend(head, q, &head.k, &head.v, &[], queries);
            let (other, other_out) =
                attend(head, q, &changed.keys, &changed.values, &changed.dropped, queries);
            divergence += weights.iter().zip(&other).map(|(p, o)| information(*p, *o)).sum::<f64>();
            for (a, b) in out.iter().zip(&other_out) {
                change += f64::from(a - b).powi(2);
                size += f64::from(*a).powi(2);
            }
        }
        let (heads, rows) = (all.len() as f64, (head.q.len() * queries) as f64);
        mean.divergence += divergence / rows / heads;
        mean.error += (change / size.max(f64::MIN_POSITIVE)).sqrt() / heads;
        mean.squared += change / rows / heads;
    }
    mean
}

/// A token's part of the divergence.
fn information(p: f32, other: f32) -> f64 {
    let (p, other) = (f64::from(p), f64::from(other).max(1e-30));
    if p > 0.0 { p * (p / other).ln() } else { 0.0 }
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
    let scaled: Vec<f32> = q[q.len() - queries * dim..].iter().map(|x| x * head.scale()).collect();
    let mut weights = vec![0f32; queries * tokens];
    let matrix = |x, rows, columns| MatRef::row_major(x, rows, columns, columns);
    matmul(&mut weights, tokens, 0.0, matrix(&scaled, queries, dim), matrix(keys, tokens, dim).transposed());
    for (i, row) in weights.chunks_exact_mut(tokens).enumerate() {
        dropped.iter().for_each(|&token| row[token] = -1e30);
        let (seen, hidden) = row.split_at_mut(if head.causal { tokens - queries + i + 1 } else { tokens });
        let columns = seen.len();
        softmax_rows(seen, columns);
        hidden.fill(0.0);
    }
    let mut out = vec![0f32; queries * dim];
    matmul(&mut out, dim, 0.0, matrix(&weights, queries, tokens), matrix(values, tokens, dim));
    (weights, out)
}
