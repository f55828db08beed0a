//! One token for all that left.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::{EditTokens, HeadEdit, TokenEdit};
use crate::EditError;

/// One token stands for all that left a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compensate {}

impl Settings for Compensate {
    const KIND: &'static str = "compensate";
}

impl EditTokens for Compensate {
    fn reads_rows(&self) -> bool {
        false
    }

    fn plan(&self, head: HeadEdit<'_>) -> Result<Vec<TokenEdit>, EditError> {
        let HeadEdit { head, tokens, kept, .. } = head;
        if let Some(&token) = kept.iter().find(|&&token| token as usize >= tokens) {
            return Err(EditError::NoSuchToken { head, token, tokens });
        }
        let leave = kept.len() < tokens;
        Ok(leave.then_some(TokenEdit::Compensate { head }).into_iter().collect())
    }
}

/// The mean of the tokens that left a head, which attention sees as one more token whose logit is `ln count` higher
/// (`RazorAttention`, arXiv:2407.15891). Exact where the keys that left were equal, else their weight is a lower bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compensation {
    /// The head.
    pub head: usize,
    /// Tokens that left.
    pub count: u64,
    /// Mean of their keys, as stored.
    pub key: Vec<f32>,
    /// Mean of their values.
    pub value: Vec<f32>,
}

impl Compensation {
    /// The mean of tokens `evicted` of a head with keys `keys` `[tokens, dims.0]` and values `values` `[tokens, dims.1]`; `None` when there are
    /// none.
    ///
    /// # Errors
    /// [`EditError::NoSuchToken`].
    pub fn of(
        head: usize,
        keys: &[f32],
        values: &[f32],
        dims: (usize, usize),
        evicted: &[u32],
    ) -> Result<Option<Self>, EditError> {
        if evicted.is_empty() {
            return Ok(None);
        }
        let tokens = (keys.len() / dims.0.max(1)).min(values.len() / dims.1.max(1));
        if let Some(&token) = evicted.iter().find(|&&t| t as usize >= tokens) {
            return Err(EditError::NoSuchToken { head, token, tokens });
        }
        let mean = |data: &[f32], dim: usize| -> Vec<f32> {
            let mut sums = vec![0f64; dim];
            for &t in evicted {
                let row = &data[t as usize * dim..][..dim];
                sums.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
            }
            sums.into_iter().map(|s| (s / evicted.len() as f64) as f32).collect()
        };
        let (key, value) = (mean(keys, dims.0), mean(values, dims.1));
        Ok(Some(Self { head, count: evicted.len() as u64, key, value }))
    }

    /// Adds tokens that left later.
    ///
    /// # Errors
    /// [`EditError::Channels`] for tokens of another size.
    pub fn absorb(&mut self, later: &Self) -> Result<(), EditError> {
        for (what, own, other) in [("a key", &self.key, &later.key), ("a value", &self.value, &later.value)] {
            if own.len() != other.len() {
                return Err(EditError::Channels { what, expected: own.len(), got: other.len() });
            }
        }
        let (own, other) = (self.count as f64, later.count as f64);
        let total = (own + other).max(1.0);
        let blend = |into: &mut Vec<f32>, from: &[f32]| {
            for (x, &y) in into.iter_mut().zip(from) {
                *x = ((own * f64::from(*x) + other * f64::from(y)) / total) as f32;
            }
        };
        blend(&mut self.key, &later.key);
        blend(&mut self.value, &later.value);
        self.count += later.count;
        Ok(())
    }

    /// What is added to the token's logit: `ln count`.
    pub fn logit_bias(&self) -> f32 {
        Self::bias(self.count)
    }

    /// What is added to the logit of a token that stands for `count` others.
    pub fn bias(count: u64) -> f32 {
        (count as f64).ln() as f32
    }
}
