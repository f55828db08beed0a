//! How many tokens stay.

use serde::{Deserialize, Serialize};

use crate::ScoreError;

/// Tokens at either end that stay whatever their scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
pub enum Rounding {
    /// Fewer tokens stay.
    #[default]
    Down,
    /// Fewer tokens go.
    Up,
}

/// How many tokens stay: the smaller of a share and a number. Neither means all.
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
    #[serde(default, skip_serializing_if = "is_down")]
    pub round: Rounding,
    /// First tokens that stay whatever their scores.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sink: usize,
    /// Last tokens that stay whatever their scores.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recent: usize,
}

fn is_down(round: &Rounding) -> bool {
    *round == Rounding::Down
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Budget {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        match self.ratio {
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => Err(ScoreError::Setting {
                setting: "budget.ratio",
                value: ratio as f32,
                requirement: "must be above 0 and at most 1",
            }),
            _ if self.tokens == Some(0) => Err(ScoreError::Setting {
                setting: "budget.tokens",
                value: 0.0,
                requirement: "must be at least 1",
            }),
            _ => Ok(()),
        }
    }

    /// What is protected by the budget itself.
    pub fn protects(&self) -> Protected {
        Protected { sink: self.sink, recent: self.recent }
    }

    /// Tokens that a head keeps of `seen`, before the layers' shares.
    pub fn kept(&self, seen: usize) -> usize {
        // A share such as 0.29 of 100 must not lose a token to the representation of 0.29.
        let near = 1e-9;
        let share = self.ratio.map_or(seen, |ratio| match self.round {
            Rounding::Down => (seen as f64 * ratio + near) as usize,
            Rounding::Up => seen - (seen as f64 * (1.0 - ratio) + near) as usize,
        });
        share.min(self.tokens.unwrap_or(usize::MAX)).min(seen)
    }
}
