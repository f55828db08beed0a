//! Diversity: a candidate is worth less when its neighbours already hold the attention.

use serde::{Deserialize, Serialize};

use crate::ScoreError;

/// A diversity term of a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Diversity {
    /// Distance in time, see [`temporal_diversity`].
    Temporal {
        /// Weight of the term, at least 0.
        alpha: f32,
    },
}

/// `d_i = max(0, 1 - max_j sim(i, j) mass_j)` with `sim = exp(-|u_i - u_j| / sigma)`, `sim(i, i) = 0` and
/// `sigma = max(1, (max u - min u + 1) / 2)`: the gate of GRAB (arXiv:2606.13035).
///
/// `units` are the candidates' indices in time.
///
/// # Errors
/// [`ScoreError::Count`] when the lists differ in length.
pub fn temporal_diversity(units: &[u64], mass: &[f32]) -> Result<Vec<f32>, ScoreError> {
    if units.len() != mass.len() {
        return Err(ScoreError::Count { what: "attention masses", expected: units.len(), got: mass.len() });
    }
    let first = units.iter().min().copied().unwrap_or(0);
    let last = units.iter().max().copied().unwrap_or(0);
    let sigma = (0.5 * ((last - first) as f32 + 1.0)).max(1.0);
    let redundancy = |i: usize| {
        let similarity =
            |j: usize| if i == j { 0.0 } else { (-(units[i].abs_diff(units[j]) as f32) / sigma).exp() };
        (0..units.len()).map(|j| similarity(j) * mass[j]).fold(0.0, f32::max)
    };
    Ok((0..units.len()).map(|i| (1.0 - redundancy(i)).max(0.0)).collect())
}
