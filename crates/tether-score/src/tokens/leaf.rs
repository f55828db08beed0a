//! Leaves of score expressions, worked out on the host.

use tether_core::ScoreLeaf;

use super::TokenObservation;
use super::attention::{group, group_mean};
use super::scorers::{mean_row, norm};
use crate::ScoreError;

/// A number for each token of each key head, `[kv_heads, columns]`.
///
/// # Errors
/// [`ScoreError::Missing`] for what was not recorded.
pub(super) fn host_leaf(leaf: &ScoreLeaf, seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
    let (heads, tokens) = (seen.kv_heads(), seen.tokens());
    if leaf.columns(tokens) == 0 {
        return Ok(Vec::new());
    }
    match *leaf {
        ScoreLeaf::WindowAttention { queries, smoothing } => seen.window_mass(queries, smoothing),
        ScoreLeaf::AttentionSums => {
            Ok(group_mean(&seen.accumulated_attention()?, heads, seen.query_heads(), tokens))
        }
        ScoreLeaf::KeyNorm => Ok(norms(&seen.keys()?, seen.head_dim_k())),
        ScoreLeaf::ValueNorm => Ok(norms(&seen.values()?, seen.head_dim_v())),
        ScoreLeaf::KeyMeanCosine => {
            let (keys, dim) = (seen.keys()?, seen.head_dim_k());
            Ok(keys.chunks_exact(tokens * dim).flat_map(|head| mean_cosines(head, dim)).collect())
        }
        ScoreLeaf::MeanLogit { queries } => {
            let (dim, group) = (seen.head_dim_k(), group(seen)?);
            let (asked, keys) = (seen.queries(queries)?, seen.keys()?);
            let scale = (dim as f64).sqrt();
            let mut logits = Vec::with_capacity(heads * tokens);
            for (head, keys) in keys.chunks_exact(tokens * dim).enumerate() {
                let mean = mean_row(&asked[head * group * queries * dim..][..group * queries * dim], dim);
                logits.extend(keys.chunks_exact(dim).map(|key| {
                    (key.iter().zip(&mean).map(|(&k, q)| f64::from(k) * q).sum::<f64>() / scale) as f32
                }));
            }
            Ok(logits)
        }
        _ => Err(ScoreError::Missing { what: "this leaf of a score on the host" }),
    }
}

fn norms(rows: &[f32], dim: usize) -> Vec<f32> {
    rows.chunks_exact(dim.max(1)).map(|row| norm(row) as f32).collect()
}

/// Cosines of one head's keys and their mean direction.
fn mean_cosines(keys: &[f32], dim: usize) -> Vec<f32> {
    let norms: Vec<f64> = keys.chunks_exact(dim).map(norm).collect();
    let mut anchor = vec![0f64; dim];
    for (key, &norm) in keys.chunks_exact(dim).zip(&norms) {
        anchor.iter_mut().zip(key).for_each(|(a, &x)| *a += f64::from(x) / norm.max(1e-12));
    }
    let length = anchor.iter().map(|a| a * a).sum::<f64>().sqrt().max(1e-12);
    let cosine = |(key, &norm): (&[f32], &f64)| {
        let dot: f64 = key.iter().zip(&anchor).map(|(&x, a)| f64::from(x) * a).sum();
        (dot / (norm.max(1e-12) * length)) as f32
    };
    keys.chunks_exact(dim).zip(&norms).map(cosine).collect()
}
