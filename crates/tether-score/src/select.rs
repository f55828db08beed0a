//! Selectors: which candidates stay.

use serde::{Deserialize, Serialize};

use crate::ScoreError;
use crate::error::all_finite;

/// How the kept candidates are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Oldest first, which is the order of candidates.
    #[default]
    Time,
}

/// A way to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Selector {
    /// The highest scores, see [`top_k`].
    TopK {
        /// Order of the result.
        #[serde(default)]
        order: Order,
    },
    /// Evenly spaced candidates, whatever their scores, see [`evenly_spaced`].
    EvenlySpaced {},
}

/// Indices of the `k` highest `scores`, ascending. Equal scores: the lower index stays. All of them when there are no more than `k`.
///
/// # Errors
/// [`ScoreError::NonFinite`] for a score that is NaN or infinite.
pub fn top_k(scores: &[f32], k: usize) -> Result<Vec<usize>, ScoreError> {
    all_finite("score", scores)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    Ok(order)
}

/// `k` of `candidates` indices at equal distances, the first and the last included; halves round to the even index. All of them when
/// there are no more than `k`.
pub fn evenly_spaced(candidates: usize, k: usize) -> Vec<usize> {
    if candidates <= k {
        return (0..candidates).collect();
    }
    let step = if k > 1 { (candidates - 1) as f64 / (k - 1) as f64 } else { 0.0 };
    (0..k).map(|i| (i as f64 * step).round_ties_even() as usize).collect()
}
