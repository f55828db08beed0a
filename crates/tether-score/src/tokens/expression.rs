//! Scores as data: what a backend works out of keys, values and queries, and cheap arithmetic over it.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;

use super::leaf::host_leaf;
use super::scorers::mean_of_rows;
use super::{HeadScores, TokenObservation};
use crate::ScoreError;

/// A score of each token of each key head. What is made of keys, values and queries are its leaves, which a device works out; all else is arithmetic over as many
/// numbers as there are tokens, which are all that travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScoreExpr {
    /// What a backend works out.
    Leaf(ScoreLeaf),
    /// A score of the tokens before the newest `count`, which stand above all others by 1.
    Newest {
        /// Their score.
        of: Box<Self>,
        /// Newest tokens.
        count: usize,
    },
    /// A score times a number.
    Scale {
        /// The score.
        of: Box<Self>,
        /// The number.
        by: f32,
    },
    /// The mean over key heads, the same for all.
    HeadMean(Box<Self>),
    /// A score divided by the number of queries that saw the token: those from its position on.
    PerQuery(Box<Self>),
    /// A sum.
    Add(Vec<Self>),
    /// A product.
    Mul(Vec<Self>),
}

impl ScoreExpr {
    /// A leaf.
    pub fn leaf(leaf: ScoreLeaf) -> Self {
        Self::Leaf(leaf)
    }

    /// This score of the tokens before the newest `count`.
    #[must_use]
    pub fn before_newest(self, count: usize) -> Self {
        Self::Newest { of: Box::new(self), count }
    }

    /// This score times a number.
    #[must_use]
    pub fn scaled(self, by: f32) -> Self {
        Self::Scale { of: Box::new(self), by }
    }

    /// What has to be worked out for it, each leaf once.
    pub fn leaves(&self) -> Vec<ScoreLeaf> {
        let mut leaves = Vec::new();
        self.collect(&mut leaves);
        leaves
    }

    fn collect(&self, leaves: &mut Vec<ScoreLeaf>) {
        match self {
            Self::Leaf(leaf) if leaves.contains(leaf) => {}
            Self::Leaf(leaf) => leaves.push(*leaf),
            Self::Newest { of, .. } | Self::Scale { of, .. } | Self::HeadMean(of) | Self::PerQuery(of) => {
                of.collect(leaves);
            }
            Self::Add(all) | Self::Mul(all) => all.iter().for_each(|of| of.collect(leaves)),
        }
    }

    /// The leaf by which each head's tokens are in the same order, or in the opposite one where the number is negative, and the newest tokens that stand above all; `None` where
    /// more than one leaf, or other heads, have a say.
    pub fn ordered_by(&self) -> Option<(ScoreLeaf, f32, usize)> {
        match self {
            Self::Leaf(leaf) => Some((*leaf, 1.0, 0)),
            Self::Scale { of, by } => {
                let (leaf, factor, newest) = of.ordered_by()?;
                (newest == 0 && *by != 0.0).then_some((leaf, factor * by, 0))
            }
            Self::Newest { of, count } => {
                let (leaf, factor, newest) = of.ordered_by()?;
                (newest == 0).then_some((leaf, factor, *count))
            }
            _ => None,
        }
    }

    /// The scores. Leaves that `seen` has not had worked out are worked out here.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] for what a leaf is made of and was not recorded, [`ScoreError::Count`] for parts that do not fit each other, [`ScoreError::NonFiniteToken`].
    pub fn evaluate(&self, seen: &dyn TokenObservation) -> Result<HeadScores, ScoreError> {
        let (heads, tokens) = (seen.kv_heads(), seen.tokens());
        match self {
            Self::Leaf(leaf) => {
                let numbers = match seen.leaf(leaf) {
                    Some(numbers) => numbers.to_vec(),
                    None => host_leaf(leaf, seen)?,
                };
                HeadScores::new(heads, leaf.columns(tokens), numbers)
            }
            Self::Newest { of, count } => {
                let of = of.evaluate(seen)?;
                if of.tokens() + count != tokens {
                    let (what, got) = ("tokens before the newest", of.tokens());
                    return Err(ScoreError::Count { what, expected: tokens.saturating_sub(*count), got });
                }
                let top = of.highest() + 1.0;
                let padded = |row: &[f32]| {
                    row.iter().copied().chain(std::iter::repeat_n(top, *count)).collect::<Vec<_>>()
                };
                HeadScores::new(heads, tokens, of.rows().flat_map(padded).collect())
            }
            Self::Scale { of, by } => {
                let of = of.evaluate(seen)?;
                HeadScores::new(heads, of.tokens(), of.values().iter().map(|x| x * by).collect())
            }
            Self::HeadMean(of) => {
                let of = of.evaluate(seen)?;
                if of.tokens() == 0 {
                    return Ok(of);
                }
                HeadScores::shared(heads, &mean_of_rows(of.values(), of.tokens()))
            }
            Self::PerQuery(of) => {
                let of = of.evaluate(seen)?;
                let columns = of.tokens();
                let mut values = of.values().to_vec();
                for (head, row) in values.chunks_exact_mut(columns.max(1)).enumerate() {
                    let positions = seen.positions(head);
                    let end = positions.last().map_or(0, |&p| i64::from(p) + 1);
                    row.iter_mut()
                        .zip(positions)
                        .for_each(|(x, &p)| *x /= (end - i64::from(p)).max(1) as f32);
                }
                HeadScores::new(heads, columns, values)
            }
            Self::Add(all) => folded(all, seen, |a, b| a + b),
            Self::Mul(all) => folded(all, seen, |a, b| a * b),
        }
    }
}

fn folded(
    all: &[ScoreExpr],
    seen: &dyn TokenObservation,
    with: impl Fn(f32, f32) -> f32,
) -> Result<HeadScores, ScoreError> {
    let mut parts = all.iter().map(|of| of.evaluate(seen));
    let mut result = parts.next().ok_or(ScoreError::Missing { what: "parts of a score" })??;
    for part in parts {
        let part = part?;
        if part.tokens() != result.tokens() {
            let (expected, got) = (result.tokens(), part.tokens());
            return Err(ScoreError::Count { what: "tokens of a part of a score", expected, got });
        }
        let values = result.values().iter().zip(part.values()).map(|(&a, &b)| with(a, b)).collect();
        result = HeadScores::new(result.heads(), result.tokens(), values)?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_orders_tokens() {
        let norm = || ScoreExpr::leaf(ScoreLeaf::KeyNorm);
        assert_eq!(norm().scaled(-1.0).before_newest(3).ordered_by(), Some((ScoreLeaf::KeyNorm, -1.0, 3)));
        // The newest tokens would be the lowest.
        assert_eq!(norm().before_newest(3).scaled(-1.0).ordered_by(), None);
        assert_eq!(norm().scaled(0.0).ordered_by(), None);
        assert_eq!(ScoreExpr::HeadMean(Box::new(norm())).ordered_by(), None);
        let sum = ScoreExpr::Add(vec![norm(), norm(), ScoreExpr::leaf(ScoreLeaf::ValueNorm)]);
        assert_eq!(sum.leaves(), [ScoreLeaf::KeyNorm, ScoreLeaf::ValueNorm]);
        assert_eq!(sum.ordered_by(), None);
    }
}
