//! References in double precision, on samples where the whole would take too long.

use rayon::prelude::*;

/// Relative error of `got` in the Euclidean norm. NaN is an infinite error.
pub(crate) fn relative(got: impl IntoIterator<Item = f64>, expected: impl IntoIterator<Item = f64>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (g, e) in got.into_iter().zip(expected) {
        error += (g - e) * (g - e);
        norm += e * e;
    }
    let relative = (error / norm).sqrt();
    if relative.is_nan() { f64::INFINITY } else { relative }
}

/// Softmax attention of one query token a sequence, `[batch, heads, dim]`, over keys and values `[batch * context, kv_heads, dim]`.
pub(crate) fn attention_of_heads(
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    (batch, context): (usize, usize),
    (heads, kv_heads, dim): (usize, usize, usize),
) -> Vec<f64> {
    let row = |query: usize| {
        let (sequence, head) = (query / heads, query % heads / (heads / kv_heads));
        let at = move |token: usize| ((sequence * context + token) * kv_heads + head) * dim;
        let scale = 1.0 / (dim as f64).sqrt();
        attention(&q[query * dim..][..dim], context, scale, |t| &k[at(t)..][..dim], |t| &v[at(t)..][..dim])
    };
    (0..batch * heads).into_par_iter().flat_map_iter(row).collect()
}

/// Softmax attention of one query over rows `row(token)` of keys and values.
pub(crate) fn attention<'a>(
    query: &[f32],
    tokens: usize,
    scale: f64,
    key: impl Fn(usize) -> &'a [f32],
    value: impl Fn(usize) -> &'a [f32],
) -> Vec<f64> {
    let dot =
        |k: &[f32]| query.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() * scale;
    let logits: Vec<f64> = (0..tokens).map(|t| dot(key(t))).collect();
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; value(0).len()];
    for (token, weight) in weights.iter().enumerate() {
        for (o, &v) in out.iter_mut().zip(value(token)) {
            *o += weight / total * f64::from(v);
        }
    }
    out
}
