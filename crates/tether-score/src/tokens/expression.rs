//! Scores as data: what a backend works out of keys, values and queries, and cheap arithmetic over it.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};

use super::leaf::host_leaf;
use super::scorers::mean_of_rows;
use super::selectors::best;
use super::{HeadScores, Protected, ScoreRequest, TokenObservation, TokenScorer, pooled};
use crate::ScoreError;

/// The score of tokens that a score says nothing about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndScore {
    /// Above all others by 1.
    Above,
    /// This.
    Is(f32),
}

/// A score of each token of each key head. What is made of keys, values and queries are its leaves, which a device works out; all else is arithmetic over as many
/// numbers as there are tokens, which are all that travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScoreExpr {
    /// What a backend works out.
    Leaf(ScoreLeaf),
    /// The scores of a scorer that asks for keys, values or queries themselves: they are read back for it.
    Host {
        /// The scorer.
        scorer: TokenScorer,
        /// For how much it is asked.
        request: ScoreRequest,
    },
    /// A score of the tokens between the first ones and the last ones.
    Within {
        /// Their score.
        of: Box<Self>,
        /// First tokens, which it says nothing about.
        first: usize,
        /// Last tokens, likewise.
        last: usize,
        /// What those score.
        ends: EndScore,
    },
    /// A score of the tokens after the first ones alone.
    After {
        /// The score of all.
        of: Box<Self>,
        /// First tokens.
        first: usize,
    },
    /// A score that each of several neighbouring tokens has.
    Repeat {
        /// The score.
        of: Box<Self>,
        /// Tokens that have one.
        times: usize,
        /// All tokens; the last score is that of those which are left.
        tokens: usize,
    },
    /// A score times a number.
    Scale {
        /// The score.
        of: Box<Self>,
        /// The number.
        by: f32,
    },
    /// A score and a number.
    Offset {
        /// The score.
        of: Box<Self>,
        /// The number.
        by: f32,
    },
    /// A score smoothed along the tokens.
    Smooth {
        /// The score.
        of: Box<Self>,
        /// How.
        over: Pool,
    },
    /// The softmax of a score over the tokens of each head.
    Softmax(Box<Self>),
    /// The rank of a score in its block of tokens, as a share of the block: 0 for the lowest, of equal ones for the first.
    Rank {
        /// The score.
        of: Box<Self>,
        /// Tokens of a block.
        size: usize,
    },
    /// A score, but the highest there is for the `count` tokens of each head that are best by another one.
    Raise {
        /// The score.
        of: Box<Self>,
        /// The other one.
        by: Box<Self>,
        /// Tokens that are raised.
        count: usize,
        /// Tokens that are best by the other score whatever it is.
        protected: Protected,
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
    /// The score that a scorer gives, which is asked itself where it has no expression.
    pub fn of(scorer: &TokenScorer, request: ScoreRequest, tokens: usize) -> Self {
        let host = || Self::Host { scorer: scorer.clone(), request };
        scorer.expression(request, tokens).unwrap_or_else(host)
    }

    /// A leaf.
    pub fn leaf(leaf: ScoreLeaf) -> Self {
        Self::Leaf(leaf)
    }

    /// This score of the tokens before the newest `count`, which stand above all others by 1.
    #[must_use]
    pub fn before_newest(self, count: usize) -> Self {
        self.within((0, count), EndScore::Above)
    }

    /// This score of the tokens between the `first` and the `last` ones.
    #[must_use]
    pub fn within(self, (first, last): (usize, usize), ends: EndScore) -> Self {
        Self::Within { of: Box::new(self), first, last, ends }
    }

    /// This score of the tokens after the first ones.
    #[must_use]
    pub fn after_first(self, first: usize) -> Self {
        if first == 0 { self } else { Self::After { of: Box::new(self), first } }
    }

    /// This score times a number.
    #[must_use]
    pub fn scaled(self, by: f32) -> Self {
        Self::Scale { of: Box::new(self), by }
    }

    /// This score and a number.
    #[must_use]
    pub fn plus(self, by: f32) -> Self {
        if by == 0.0 { self } else { Self::Offset { of: Box::new(self), by } }
    }

    /// What has to be worked out for it, each leaf once.
    pub fn leaves(&self) -> Vec<ScoreLeaf> {
        let mut leaves = Vec::new();
        self.visit(&mut |part| match part {
            Self::Leaf(leaf) if !leaves.contains(leaf) => leaves.push(*leaf),
            _ => {}
        });
        leaves
    }

    /// True where some part of it asks for keys, values or queries themselves, which are read back for it.
    pub fn reads_back(&self) -> bool {
        let mut reads = false;
        self.visit(&mut |part| reads |= matches!(part, Self::Host { .. }));
        reads
    }

    /// Shows `look` every part of it.
    fn visit(&self, look: &mut impl FnMut(&Self)) {
        look(self);
        match self {
            Self::Leaf(_) | Self::Host { .. } => {}
            Self::Within { of, .. }
            | Self::After { of, .. }
            | Self::Repeat { of, .. }
            | Self::Scale { of, .. }
            | Self::Offset { of, .. }
            | Self::Smooth { of, .. }
            | Self::Rank { of, .. }
            | Self::Softmax(of)
            | Self::HeadMean(of)
            | Self::PerQuery(of) => of.visit(look),
            Self::Raise { of, by, .. } => [of, by].into_iter().for_each(|part| part.visit(look)),
            Self::Add(all) | Self::Mul(all) => all.iter().for_each(|part| part.visit(look)),
        }
    }

    /// The leaf by which each head's tokens are in the same order, or in the opposite one where the number is negative, and the first and the last tokens that stand above
    /// all; `None` where more than one leaf, or other heads, have a say.
    pub fn ordered_by(&self) -> Option<(ScoreLeaf, f32, (usize, usize))> {
        match self {
            Self::Leaf(leaf) => Some((*leaf, 1.0, (0, 0))),
            Self::Scale { of, by } => {
                let (leaf, factor, ends) = of.ordered_by()?;
                (ends == (0, 0) && *by != 0.0).then_some((leaf, factor * by, ends))
            }
            Self::Within { of, first, last, ends: EndScore::Above } => {
                let (leaf, factor, ends) = of.ordered_by()?;
                (ends == (0, 0)).then_some((leaf, factor, (*first, *last)))
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
            Self::Host { scorer, request } => scorer.score(seen, *request),
            Self::Within { of, first, last, ends } => {
                let of = of.evaluate(seen)?;
                if of.tokens() + first + last != tokens {
                    let expected = tokens.saturating_sub(first + last);
                    let (what, got) = ("tokens between the first and the last", of.tokens());
                    return Err(ScoreError::Count { what, expected, got });
                }
                let end = match *ends {
                    EndScore::Above => of.highest() + 1.0,
                    EndScore::Is(score) => score,
                };
                let ends = |count| std::iter::repeat_n(end, count);
                let padded = |row: &[f32]| -> Vec<f32> {
                    ends(*first).chain(row.iter().copied()).chain(ends(*last)).collect()
                };
                HeadScores::new(heads, tokens, of.rows().flat_map(padded).collect())
            }
            Self::After { of, first } => {
                let of = of.evaluate(seen)?;
                let rest = of.tokens().saturating_sub(*first);
                let values = of.rows().flat_map(|row| &row[row.len() - rest..]).copied().collect();
                HeadScores::new(heads, rest, values)
            }
            Self::Repeat { of, times, tokens } => {
                let of = of.evaluate(seen)?;
                if of.tokens() != tokens.div_ceil((*times).max(1)) {
                    let (what, got) = ("tokens that have a score in common", of.tokens());
                    return Err(ScoreError::Count { what, expected: tokens.div_ceil((*times).max(1)), got });
                }
                let repeated = |row: &[f32]| (0..*tokens).map(|t| row[t / times]).collect::<Vec<_>>();
                HeadScores::new(heads, *tokens, of.rows().flat_map(repeated).collect())
            }
            Self::Scale { of, by } => mapped(of, seen, |x| x * by),
            Self::Offset { of, by } => mapped(of, seen, |x| x + by),
            Self::Smooth { of, over } => {
                let of = of.evaluate(seen)?;
                HeadScores::new(heads, of.tokens(), pooled(of.values(), of.tokens(), *over))
            }
            Self::Softmax(of) => {
                let of = of.evaluate(seen)?;
                let softmax = |row: &[f32]| -> Vec<f32> {
                    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let weigh = |&x: &f32| (f64::from(x) - f64::from(highest)).exp();
                    let total: f64 = row.iter().map(weigh).sum();
                    row.iter().map(|x| (weigh(x) / total) as f32).collect()
                };
                HeadScores::new(heads, of.tokens(), of.rows().flat_map(softmax).collect())
            }
            Self::Rank { of, size } => {
                let of = of.evaluate(seen)?;
                let ranks = of.rows().flat_map(|row| row.chunks((*size).max(1)).flat_map(ranks)).collect();
                HeadScores::new(heads, of.tokens(), ranks)
            }
            Self::Raise { of, by, count, protected } => {
                let (of, by) = (of.evaluate(seen)?, by.evaluate(seen)?);
                if (by.heads(), by.tokens()) != (of.heads(), of.tokens()) {
                    let (what, expected, got) = ("scores to raise by", of.values().len(), by.values().len());
                    return Err(ScoreError::Count { what, expected, got });
                }
                let columns = of.tokens();
                let mut values = of.values().to_vec();
                for (row, by) in values.chunks_exact_mut(columns.max(1)).zip(by.rows()) {
                    best(by, *count, *protected).iter().for_each(|&t| row[t as usize] = f32::MAX);
                }
                HeadScores::new(of.heads(), columns, values)
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

fn mapped(
    of: &ScoreExpr,
    seen: &dyn TokenObservation,
    with: impl Fn(f32) -> f32,
) -> Result<HeadScores, ScoreError> {
    let of = of.evaluate(seen)?;
    HeadScores::new(of.heads(), of.tokens(), of.values().iter().map(|&x| with(x)).collect())
}

/// The rank of each number, as a share of them.
fn ranks(block: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..block.len()).collect();
    order.sort_by(|&a, &b| block[a].total_cmp(&block[b]));
    let mut ranks = vec![0f32; block.len()];
    order.iter().enumerate().for_each(|(rank, &at)| ranks[at] = rank as f32 / block.len() as f32);
    ranks
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
        let all = Some((ScoreLeaf::KeyNorm, -1.0, (0, 3)));
        assert_eq!(norm().scaled(-1.0).before_newest(3).ordered_by(), all);
        // The newest tokens would be the lowest.
        assert_eq!(norm().before_newest(3).scaled(-1.0).ordered_by(), None);
        assert_eq!(norm().scaled(0.0).ordered_by(), None);
        assert_eq!(ScoreExpr::HeadMean(Box::new(norm())).ordered_by(), None);
        let sum = ScoreExpr::Add(vec![norm(), norm(), ScoreExpr::leaf(ScoreLeaf::ValueNorm)]);
        assert_eq!(sum.leaves(), [ScoreLeaf::KeyNorm, ScoreLeaf::ValueNorm]);
        assert_eq!(sum.ordered_by(), None);
    }
}
