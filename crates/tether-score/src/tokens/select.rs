//! From scores to the tokens that stay.

use serde::{Deserialize, Serialize};

use super::{HeadScores, KeepSets, Protected};
use crate::ScoreError;

/// A way to choose tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenSelector {
    /// The highest scores of each head by itself.
    TopK {},
}

impl TokenSelector {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        match self {
            Self::TopK {} => Ok(()),
        }
    }

    /// `kept` tokens a head, the protected ones among them. Equal scores: the earlier token stays.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn select(
        &self,
        scores: &HeadScores,
        kept: usize,
        protected: Protected,
    ) -> Result<KeepSets, ScoreError> {
        self.validate()?;
        match self {
            Self::TopK {} => Ok(KeepSets::new(scores.rows().map(|row| best(row, kept, protected)).collect())),
        }
    }
}

/// The `kept` best of `scores`, in no order, the protected ones always among them.
pub(super) fn best(scores: &[f32], kept: usize, protected: Protected) -> Vec<u32> {
    let tokens = scores.len();
    let kept = kept.min(tokens);
    let protected = protected.within(kept, tokens);
    let key =
        |t: u32| (!protected.holds(t as usize, tokens), std::cmp::Reverse(Ranked(scores[t as usize])), t);
    let mut order: Vec<u32> = (0..tokens as u32).collect();
    if kept < tokens {
        order.select_nth_unstable_by_key(kept, |&t| key(t));
        order.truncate(kept);
    }
    order
}

/// A finite score, ordered; -0 equals 0.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Ranked(pub(super) f32);

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}
