//! Weighted means of tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::EditError;

/// A kept token becomes `(x + sum of w_e x_e) / (1 + sum of w_e)` over evicted tokens `e`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// The head.
    pub head: usize,
    /// The kept token.
    pub into: u32,
    /// Evicted tokens and their weights.
    pub from: Vec<(u32, f32)>,
    /// Whether keys merge too, and not values alone.
    pub keys: bool,
}

/// Applies merges to `keys` `[heads, tokens, dims.0]` and `values` `[heads, tokens, dims.1]`, all from the state before: a merge does not see
/// another one's result.
///
/// # Errors
/// [`EditError::Length`], [`EditError::NoSuchToken`]; nothing has changed then.
pub fn apply_merges(
    keys: &mut [f32],
    values: &mut [f32],
    tokens: usize,
    dims: (usize, usize),
    merges: &[Merge],
) -> Result<(), EditError> {
    for (data, dim) in [(&*keys, dims.0), (&*values, dims.1)] {
        if tokens == 0 || dim == 0 || !data.len().is_multiple_of(tokens * dim) {
            return Err(EditError::Length { got: data.len(), channels: tokens * dim });
        }
    }
    let heads = (keys.len() / (tokens * dims.0)).min(values.len() / (tokens * dims.1));
    for merge in merges {
        let mut all = merge.from.iter().map(|f| f.0).chain([merge.into]);
        if let Some(token) = all.find(|&t| t as usize >= tokens || merge.head >= heads) {
            return Err(EditError::NoSuchToken { head: merge.head, token, tokens });
        }
    }
    let mean = |data: &[f32], dim: usize, merge: &Merge| -> Vec<f32> {
        let row = |t: u32| &data[(merge.head * tokens + t as usize) * dim..][..dim];
        let mut sum: Vec<f64> = row(merge.into).iter().map(|&x| x.into()).collect();
        let mut total = 1.0;
        for &(token, weight) in &merge.from {
            let weight = f64::from(weight);
            total += weight;
            sum.iter_mut().zip(row(token)).for_each(|(s, &x)| *s += weight * f64::from(x));
        }
        sum.into_iter().map(|s| (s / total) as f32).collect()
    };
    let merged: Vec<(Option<Vec<f32>>, Vec<f32>)> =
        merges.iter().map(|m| (m.keys.then(|| mean(keys, dims.0, m)), mean(values, dims.1, m))).collect();
    for (merge, (key, value)) in merges.iter().zip(merged) {
        let at = merge.head * tokens + merge.into as usize;
        if let Some(key) = key {
            keys[at * dims.0..][..dims.0].copy_from_slice(&key);
        }
        values[at * dims.1..][..dims.1].copy_from_slice(&value);
    }
    Ok(())
}

/// Merges out of (kept, evicted, weight), those of one kept token together.
pub(super) fn grouped(
    head: usize,
    keys: bool,
    pairs: impl IntoIterator<Item = (u32, u32, f32)>,
) -> Vec<Merge> {
    let mut by_token: BTreeMap<u32, Vec<(u32, f32)>> = BTreeMap::new();
    for (into, from, weight) in pairs {
        by_token.entry(into).or_default().push((from, weight));
    }
    by_token.into_iter().map(|(into, from)| Merge { head, into, from, keys }).collect()
}
