//! Scores of tokens, per head.

use crate::ScoreError;

/// A score for each token of each head, all finite; higher stays.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadScores {
    heads: usize,
    tokens: usize,
    values: Vec<f32>,
}

impl HeadScores {
    /// Wraps `values`, `[heads, tokens]`.
    ///
    /// # Errors
    /// [`ScoreError::Count`] for another number of values, [`ScoreError::NonFiniteToken`] for one that cannot be ranked.
    pub fn new(heads: usize, tokens: usize, values: Vec<f32>) -> Result<Self, ScoreError> {
        if values.len() != heads * tokens {
            return Err(ScoreError::Count { what: "scores", expected: heads * tokens, got: values.len() });
        }
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let (head, token) = (at / tokens, at % tokens);
            return Err(ScoreError::NonFiniteToken { what: "the score", head, token, value: values[at] });
        }
        Ok(Self { heads, tokens, values })
    }

    /// The same row for `heads` heads.
    ///
    /// # Errors
    /// As [`HeadScores::new`].
    pub fn shared(heads: usize, row: &[f32]) -> Result<Self, ScoreError> {
        Self::new(heads, row.len(), row.repeat(heads))
    }

    /// Heads: key heads, or query heads where a scorer gives each its own set.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// All scores, `[heads, tokens]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The scores of one head.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn head(&self, head: usize) -> &[f32] {
        &self.values[head * self.tokens..(head + 1) * self.tokens]
    }

    /// The scores of each head in turn.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> + Clone {
        (0..self.heads).map(|h| self.head(h))
    }

    /// The highest of all scores; 0 when there is none.
    pub fn highest(&self) -> f32 {
        self.values.iter().copied().reduce(f32::max).unwrap_or(0.0)
    }
}
