//! How layers share a budget.

use serde::{Deserialize, Serialize};

use super::BudgetPlace;
use crate::ScoreError;

/// How layers share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum LayerBudget {
    /// Equally.
    Uniform {},
    /// Falling by equal steps from the first layer to the last (arXiv:2406.02069).
    Pyramid {
        /// The last layer's share of the average is its inverse.
        beta: f64,
    },
    /// Falling from group to group of `shared` layers, whose members keep what the first of them chose; the budget counts the tokens before
    /// the scorer's window, which come on top (arXiv:2503.17922).
    Groups {
        /// Layers of a group.
        shared: usize,
        /// How much less the last group keeps.
        beta: usize,
    },
}

impl Default for LayerBudget {
    fn default() -> Self {
        Self::Uniform {}
    }
}

impl LayerBudget {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        let setting = |value, requirement| {
            Err(ScoreError::Setting { setting: "budget.layers.beta", value, requirement })
        };
        match *self {
            Self::Pyramid { beta } if !(beta.is_finite() && beta >= 1.0) => {
                setting(beta as f32, "must be finite and at least 1")
            }
            Self::Groups { beta: 0, .. } => setting(0.0, "must be at least 1"),
            Self::Groups { shared, .. } => crate::tokens::scorer::at_least("budget.layers.shared", shared, 1),
            _ => Ok(()),
        }
    }

    /// The group of layers that share their choice.
    pub fn group(&self, layer: usize) -> Option<usize> {
        match *self {
            Self::Groups { shared, .. } => Some(layer / shared.max(1)),
            _ => None,
        }
    }
}

/// The budget of a layer under a pyramid whose mean is `average`. Where a pyramid does not fit between window and text, all layers keep the
/// mean; halves round to the even number.
pub(super) fn pyramid(average: f64, beta: f64, place: BudgetPlace) -> usize {
    let (tokens, window) = (place.seen as f64, place.window as f64);
    let mut least = average / beta;
    let mut most = 2.0 * average - least;
    if most >= tokens - window {
        most = tokens - window;
        least = 2.0 * average - most;
    }
    let fits = tokens >= most && most >= least && least >= window && place.layers > 1;
    let kept =
        if fits { most - place.layer as f64 * (most - least) / (place.layers as f64 - 1.0) } else { average };
    (kept.round_ties_even().max(0.0) as usize).min(place.seen)
}

/// Tokens before the window that each group of `shared` layers keeps when they keep `average` on average.
pub fn window_groups(average: usize, layers: usize, shared: usize, beta: usize) -> Vec<usize> {
    let groups = (layers / shared.max(1)).max(1);
    if groups == 1 {
        return vec![average];
    }
    let last = (average * shared / beta.max(1)).min(2 * average);
    let first = 2 * average - last;
    // The published step; it is negative when the last group keeps more than the first.
    let step = (first as i64 - last as i64).div_euclid(groups as i64 - 1);
    let of_group = |i: usize| (first as i64 - i as i64 * step).max(0) as usize;
    (0..groups - 1).map(of_group).chain([last]).collect()
}
