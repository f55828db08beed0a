//! Mean attention logits from means: the exact factorised form of a mean of inner products.

/// Mean over `q`'s tokens (`[tokens, query_heads, dim]`, un-rotated), summed over the query heads that share a key head:
/// `[kv_heads, dim]`.
///
/// # Panics
/// Unless `query_heads` is a multiple of `kv_heads` and no extent is 0.
pub fn mean_query(q: &[f32], query_heads: usize, kv_heads: usize, dim: usize) -> Vec<f64> {
    assert!(dim > 0 && kv_heads > 0 && query_heads.is_multiple_of(kv_heads), "heads should group evenly");
    let group = (query_heads / kv_heads).max(1);
    let mut sum = vec![0f64; kv_heads * dim];
    let rows = q.chunks_exact((query_heads * dim).max(1));
    let tokens = rows.len();
    for token in rows {
        for (head, values) in token.chunks_exact(dim).enumerate() {
            let sum = &mut sum[head / group * dim..][..dim];
            sum.iter_mut().zip(values).for_each(|(s, &x)| *s += f64::from(x));
        }
    }
    sum.iter_mut().for_each(|s| *s /= tokens.max(1) as f64);
    sum
}

/// For each unit's mean key (`[kv_heads, dim]`): the mean over query heads, query tokens and the unit's tokens of
/// `q.k / sqrt(dim)`, given [`mean_query`].
///
/// A mean of inner products is the inner product of the means, so no logit is ever formed.
pub fn mean_logits<'a>(
    mean_query: &[f64],
    query_heads: usize,
    dim: usize,
    mean_keys: impl IntoIterator<Item = &'a [f32]>,
) -> Vec<f32> {
    let scale = 1.0 / (query_heads as f64 * (dim as f64).sqrt());
    let dot = |key: &[f32]| mean_query.iter().zip(key).map(|(q, &k)| q * f64::from(k)).sum::<f64>();
    mean_keys.into_iter().map(|key| (dot(key) * scale) as f32).collect()
}
