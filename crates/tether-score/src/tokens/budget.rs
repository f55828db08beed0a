//! How many tokens stay.

use serde::{Deserialize, Serialize};

use super::head_budget::HeadBudget;
use super::layer_budget::{LayerBudget, pyramid, window_groups};
use crate::ScoreError;

/// Tokens at either end that stay whatever their scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protected {
    /// First tokens.
    pub sink: usize,
    /// Last tokens.
    pub recent: usize,
}

impl Protected {
    /// What either protects.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { sink: self.sink.max(other.sink), recent: self.recent.max(other.recent) }
    }

    /// As much of it as fits among `kept` of `tokens` tokens: sinks first, then the most recent.
    #[must_use]
    pub fn within(self, kept: usize, tokens: usize) -> Self {
        let kept = kept.min(tokens);
        let sink = self.sink.min(kept);
        Self { sink, recent: self.recent.min(kept - sink) }
    }

    /// True for a token that is protected, of `tokens`.
    pub fn holds(&self, token: usize, tokens: usize) -> bool {
        token < self.sink || token + self.recent >= tokens
    }
}

/// Which way a fraction of a token goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rounding {
    /// Fewer tokens stay.
    #[default]
    Down,
    /// Fewer tokens go.
    Up,
}

/// How many tokens stay: the smaller of a share and a number. Neither means all, unless the shares of layers or heads say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Share of the tokens that stays, above 0 and at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Tokens that stay at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Rounding of the share.
    #[serde(default, skip_serializing_if = "is_default")]
    pub round: Rounding,
    /// First tokens that stay whatever their scores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sink: usize,
    /// Last tokens that stay whatever their scores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub recent: usize,
    /// First layers that keep everything.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dense: usize,
    /// How layers share it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layers: LayerBudget,
    /// How the heads of a layer share it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub heads: HeadBudget,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whose budget is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetPlace {
    /// The layer.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Tokens that the sequence has had.
    pub seen: usize,
    /// Last tokens that the scorer protects.
    pub window: usize,
}

impl Budget {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        let setting = |setting, value, requirement| Err(ScoreError::Setting { setting, value, requirement });
        match self.ratio {
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
                return setting("budget.ratio", ratio as f32, "must be above 0 and at most 1");
            }
            _ if self.tokens == Some(0) => return setting("budget.tokens", 0.0, "must be at least 1"),
            _ => {}
        }
        self.layers.validate()?;
        self.heads.validate()
    }

    /// What is protected by the budget itself.
    pub fn protects(&self) -> Protected {
        Protected { sink: self.sink, recent: self.recent }
    }

    /// True when it says how many tokens stay.
    pub fn is_given(&self) -> bool {
        self.ratio.is_some() || self.tokens.is_some()
    }

    /// Tokens that a head keeps of `seen`, before the layers' shares.
    pub fn average(&self, seen: usize) -> usize {
        // A share such as 0.29 of 100 must not lose a token to the representation of 0.29.
        let near = 1e-9;
        let share = self.ratio.map_or(seen, |ratio| match self.round {
            Rounding::Down => (seen as f64 * ratio + near) as usize,
            Rounding::Up => seen - (seen as f64 * (1.0 - ratio) + near) as usize,
        });
        share.min(self.tokens.unwrap_or(usize::MAX)).min(seen)
    }

    /// Tokens that a head of one layer keeps on average.
    pub fn kept(&self, place: BudgetPlace) -> usize {
        if place.layer < self.dense {
            return place.seen;
        }
        let share = self.ratio.map_or(place.seen as f64, |r| place.seen as f64 * r);
        let exact = share.min(self.tokens.map_or(f64::INFINITY, |t| t as f64));
        match self.layers {
            LayerBudget::Uniform {} => self.average(place.seen),
            LayerBudget::Pyramid { beta } => pyramid(exact, beta, place),
            LayerBudget::Groups { shared, beta } => {
                let groups = window_groups(self.average(place.seen), place.layers, shared, beta);
                let of_group = groups.get(place.layer / shared.max(1)).or(groups.last());
                of_group.map_or(place.seen, |&kept| kept.saturating_add(place.window)).min(place.seen)
            }
        }
    }
}
