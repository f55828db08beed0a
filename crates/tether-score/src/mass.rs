//! Attention mass: how much of the attention a candidate would get among the candidates, from means alone.

use crate::ScoreError;
use crate::error::all_finite;

/// Softmax of `logits / temperature` over the candidates.
///
/// # Errors
/// [`ScoreError::NonFinite`] names the first logit that is NaN or infinite, [`ScoreError::Setting`] a temperature that is not
/// above 0.
pub fn attention_mass(logits: &[f32], temperature: f32) -> Result<Vec<f32>, ScoreError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        let requirement = "must be finite and greater than 0";
        return Err(ScoreError::Setting { setting: "temperature", value: temperature, requirement });
    }
    all_finite("logit", logits)?;
    let temperature = temperature.max(1e-6);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|l| ((l - highest) / temperature).exp()).collect();
    let total: f32 = weights.iter().sum();
    Ok(weights.into_iter().map(|w| w / total).collect())
}

/// Mean over `q`'s tokens (`[tokens, query_heads, dim]`, un-rotated), summed over the query heads that share a key head:
/// `[kv_heads, dim]`.
///
/// # Errors
/// [`ScoreError::Heads`] unless `query_heads` is a multiple of `kv_heads` and `dim` is at least 1, [`ScoreError::Count`] when `q` is
/// not whole tokens.
pub fn mean_query(
    q: &[f32],
    query_heads: usize,
    kv_heads: usize,
    dim: usize,
) -> Result<Vec<f64>, ScoreError> {
    if kv_heads == 0 || dim == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
        return Err(ScoreError::Heads { query_heads, kv_heads, dim });
    }
    let token = query_heads * dim;
    if !q.len().is_multiple_of(token) {
        return Err(ScoreError::Count {
            what: "numbers of whole query tokens",
            expected: q.len() / token * token,
            got: q.len(),
        });
    }
    Ok(tether_core::mean_query(q, query_heads, kv_heads, dim))
}

/// For each unit's mean key (`[kv_heads, dim]`): the mean over query heads, query tokens and the unit's tokens of
/// `q.k / sqrt(dim)`, given [`mean_query`]. A mean of inner products is the inner product of the means, so no logit is ever formed.
///
/// # Errors
/// [`ScoreError::Count`] when a mean key has another number of channels than the mean query.
pub fn mean_logits<'a>(
    mean_query: &[f64],
    query_heads: usize,
    dim: usize,
    mean_keys: impl IntoIterator<Item = &'a [f32]>,
) -> Result<Vec<f32>, ScoreError> {
    let mut keys = Vec::new();
    for key in mean_keys {
        if key.len() != mean_query.len() {
            return Err(ScoreError::Count {
                what: "channels of a mean key",
                expected: mean_query.len(),
                got: key.len(),
            });
        }
        keys.push(key);
    }
    Ok(tether_core::mean_logits(mean_query, query_heads, dim, keys))
}
