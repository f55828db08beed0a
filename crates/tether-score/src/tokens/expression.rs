//! Scores as data: what a backend works out of keys, values and queries, and cheap arithmetic over it.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf, ScoreOp};

use super::arithmetic::{HostArithmetic, PositionScore, ScoreArithmetic};
use super::{HeadScores, Protected, ScoreRequest, TokenObservation, TokenScorer};
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

/// A score of each token of each key head. What is made of keys, values and queries are its leaves, which a device
/// works out; all else is arithmetic over as many numbers as there are tokens, which are all that travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScoreExpr {
    /// What a backend works out.
    Leaf(ScoreLeaf),
    /// What the positions of tokens tell.
    Position(PositionScore),
    /// The same for each of so many tokens.
    Constant {
        /// The score.
        score: f32,
        /// The tokens.
        tokens: usize,
    },
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
    /// A score over the highest of each head, protected tokens left out.
    PerHighest {
        /// The score.
        of: Box<Self>,
        /// Tokens that a head keeps.
        kept: usize,
        /// Tokens that it keeps whatever their scores.
        protected: Protected,
    },
    /// The softmax of a score over the tokens of each head.
    Softmax(Box<Self>),
    /// The rank of a score in its block of tokens, as a share of the block: 0 for the lowest, of equal ones for the
    /// first.
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
            Self::Leaf(_) | Self::Position(_) | Self::Constant { .. } | Self::Host { .. } => {}
            Self::Within { of, .. }
            | Self::After { of, .. }
            | Self::Repeat { of, .. }
            | Self::Scale { of, .. }
            | Self::Offset { of, .. }
            | Self::Smooth { of, .. }
            | Self::Rank { of, .. }
            | Self::PerHighest { of, .. }
            | Self::Softmax(of)
            | Self::HeadMean(of) => of.visit(look),
            Self::Raise { of, by, .. } => [of, by].into_iter().for_each(|part| part.visit(look)),
            Self::Add(all) | Self::Mul(all) => all.iter().for_each(|part| part.visit(look)),
        }
    }

    /// A score that orders the tokens between the first `sink` and the last `recent` as this one does, or the other
    /// way round where the number is negative, and how many first tokens it says nothing about: what stands around it
    /// and does not change the order is left out.
    pub fn ordering(&self, (sink, recent): (usize, usize)) -> (&Self, f32, usize) {
        match self {
            Self::Within { of, first, last, .. } if *first <= sink && *last <= recent => {
                let (of, factor, before) = of.ordering((sink - first, recent - last));
                (of, factor, first + before)
            }
            Self::Scale { of, by } if *by != 0.0 => {
                let (of, factor, before) = of.ordering((sink, recent));
                (of, factor * by.signum(), before)
            }
            all => (all, 1.0, 0),
        }
    }

    /// The scores. Leaves that `seen` has not had worked out are worked out here.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] for what a leaf is made of and was not recorded, [`ScoreError::Count`] and
    /// [`ScoreError::Core`] for parts that do not fit each other, [`ScoreError::NonFiniteToken`].
    pub fn evaluate(&self, seen: &dyn TokenObservation) -> Result<HeadScores, ScoreError> {
        let scores = self.work_out(&mut HostArithmetic(seen))?;
        if scores.tokens() == seen.tokens() {
            return Ok(scores);
        }
        let (expected, got) = (seen.tokens(), scores.tokens());
        Err(ScoreError::Count { what: "tokens that have a score", expected, got })
    }

    /// The scores, wherever they are worked out.
    ///
    /// # Errors
    /// Those of `with`; [`ScoreError::Missing`] for a sum or a product of nothing.
    pub fn work_out<A: ScoreArithmetic>(&self, with: &mut A) -> Result<A::Scores, A::Error> {
        let (of, op) = match self {
            Self::Leaf(leaf) => return with.leaf(leaf),
            Self::Position(score) => return with.of_positions(*score),
            Self::Constant { score, tokens } => return with.constant(*score, *tokens),
            Self::Host { scorer, request } => return with.asked(scorer, *request),
            Self::Add(all) => return folded(all, with, ScoreOp::Sum),
            Self::Mul(all) => return folded(all, with, ScoreOp::Product),
            Self::Raise { of, by, count, protected } => {
                let (of, by) = (of.work_out(with)?, by.work_out(with)?);
                let (tokens, count) = (with.tokens(), (*count).min(with.tokens()));
                let Protected { sink: first, recent: last } = protected.within(count, tokens);
                return with.op(&ScoreOp::Raise { count, first, last }, &[&of, &by]);
            }
            Self::Within { of, first, last, ends } => {
                let score = match *ends {
                    EndScore::Above => None,
                    EndScore::Is(score) => Some(score),
                };
                (of, ScoreOp::Ends { first: *first, last: *last, score })
            }
            Self::After { of, first } => {
                let count = with.tokens().saturating_sub(*first);
                (of, ScoreOp::Columns { first: *first, count, by: 1.0, reversed: false })
            }
            Self::Repeat { of, times, tokens } => (of, ScoreOp::Repeat { times: *times, columns: *tokens }),
            Self::Scale { of, by } => (of, ScoreOp::Linear { by: *by, plus: 0.0 }),
            Self::Offset { of, by } => (of, ScoreOp::Linear { by: 1.0, plus: *by }),
            Self::Smooth { of, over } => (of, ScoreOp::Smooth(*over)),
            Self::PerHighest { of, kept, protected } => {
                let Protected { sink: first, recent: last } = protected.within(*kept, with.tokens());
                (of, ScoreOp::PerHighest { first, last })
            }
            Self::Softmax(of) => (of, ScoreOp::Softmax),
            Self::Rank { of, size } => (of, ScoreOp::Rank { size: *size }),
            Self::HeadMean(of) => (of, ScoreOp::HeadMean),
        };
        let of = of.work_out(with)?;
        with.op(&op, &[&of])
    }
}

fn folded<A: ScoreArithmetic>(all: &[ScoreExpr], with: &mut A, op: ScoreOp) -> Result<A::Scores, A::Error> {
    let none = ScoreError::Missing { what: "parts of a score" };
    let (first, rest) = all.split_first().ok_or(none)?;
    let mut result = first.work_out(with)?;
    for part in rest {
        let part = part.work_out(with)?;
        result = with.op(&op, &[&result, &part])?;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_orders_tokens() {
        let norm = || ScoreExpr::leaf(ScoreLeaf::KeyNorm);
        let inner = norm();
        let scaled = norm().scaled(-2.0).within((1, 3), EndScore::Above);
        assert_eq!(scaled.ordering((1, 4)), (&inner, -1.0, 1));
        // The newest tokens are not all protected, and stand above the others.
        assert_eq!(scaled.ordering((1, 2)), (&scaled, 1.0, 0));
        let nothing = norm().scaled(0.0);
        assert_eq!(nothing.ordering((0, 0)), (&nothing, 1.0, 0));
        let twice = norm().before_newest(3).scaled(-1.0).scaled(-0.5).within((2, 0), EndScore::Is(1.0));
        assert_eq!(twice.ordering((2, 3)), (&inner, 1.0, 2));
        let mean = ScoreExpr::HeadMean(Box::new(norm()));
        assert_eq!(mean.ordering((0, 0)), (&mean, 1.0, 0));
        let sum = ScoreExpr::Add(vec![norm(), norm(), ScoreExpr::leaf(ScoreLeaf::ValueNorm)]);
        assert_eq!(sum.leaves(), [ScoreLeaf::KeyNorm, ScoreLeaf::ValueNorm]);
    }
}
