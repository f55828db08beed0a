//! Scores that are worked out where the keys are, and the choice by them: numbers of tokens come back, and not their
//! scores.

use std::ops::Range;

use tether_core::{HostTensor, ScoreLeaf, ScoreOp, TokenEngine};
use tether_score::ScoreError;
use tether_score::tokens::{
    KeptIndices, PositionScore, Protected, ScoreArithmetic, ScoreExpr, ScoreRequest, ScoreSpans, TokenScorer,
};

use super::head_pages::HeadPages;
use super::{SequenceLayer, TokenCache};
use crate::Error;
use crate::tokens::ScoreChoice;

/// Parts of the scores of heads that hold equally many tokens, on the device.
struct DeviceArithmetic<'a, E: TokenEngine> {
    cache: &'a TokenCache<E>,
    layer: usize,
    held: &'a SequenceLayer<E::Tensor>,
    heads: Range<usize>,
    /// Leaves that were worked out: some scores ask for one twice.
    leaves: Vec<(ScoreLeaf, E::Tensor)>,
}

impl<E: TokenEngine> DeviceArithmetic<'_, E> {
    fn lists(&self) -> &[HeadPages] {
        &self.held.heads[self.heads.clone()]
    }

    fn upload(&self, numbers: Vec<f32>) -> Result<E::Tensor, Error> {
        let columns = numbers.len() / self.heads.len();
        Ok(self.cache.engine.upload(&HostTensor::from_f32(&[self.heads.len(), columns], numbers)?)?)
    }
}

impl<E: TokenEngine> ScoreArithmetic for DeviceArithmetic<'_, E> {
    type Scores = E::Tensor;
    type Error = Error;

    fn tokens(&self) -> usize {
        self.lists()[0].len()
    }

    fn leaf(&mut self, leaf: &ScoreLeaf) -> Result<E::Tensor, Error> {
        if let Some((_, known)) = self.leaves.iter().find(|(of, _)| of == leaf) {
            return Ok(known.clone());
        }
        let made = self.cache.observe(self.layer, self.held, self.heads.clone(), leaf)?;
        self.leaves.push((*leaf, made.clone()));
        Ok(made)
    }

    fn of_positions(&mut self, score: PositionScore) -> Result<E::Tensor, Error> {
        self.upload(self.lists().iter().flat_map(|list| score.of(list.positions.as_slice())).collect())
    }

    fn constant(&mut self, score: f32, tokens: usize) -> Result<E::Tensor, Error> {
        self.upload(vec![score; tokens * self.heads.len()])
    }

    fn asked(&mut self, _: &TokenScorer, _: ScoreRequest) -> Result<E::Tensor, Error> {
        Err(ScoreError::Missing { what: "an expression of a score" }.into())
    }

    fn op(&mut self, op: &ScoreOp, of: &[&E::Tensor]) -> Result<E::Tensor, Error> {
        Ok(self.cache.engine.score_op(op, of)?)
    }
}

/// What was queued for a choice: which results have its numbers, and whether scores can be ranked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choosing {
    how: How,
    numbers: usize,
    finite: usize,
}

/// What the numbers are.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Of each head, the tokens between the protected ones that stay.
    Staying(Protected),
    /// Of each head, those that leave, counted from the last of them.
    Leaving(Protected),
    /// Those that stay of all heads, `token * heads + head`.
    Together(Protected),
    /// Means of spans.
    Spans(ScoreSpans),
}

/// What a choice comes to.
pub(super) enum Choice {
    Kept(KeptIndices),
    /// Means of spans, of which a selector chooses.
    Means(ScoreSpans, Vec<f32>),
}

impl Choosing {
    /// Which result has the numbers of the tokens that stay between the protected ones, as many in each head; none
    /// where it has others.
    pub(super) fn staying(&self) -> Option<(usize, Protected)> {
        match self.how {
            How::Staying(ends) => Some((self.numbers, ends)),
            How::Leaving(_) | How::Together(_) | How::Spans(_) => None,
        }
    }

    /// The choice, of heads of `tokens` tokens.
    pub(super) fn read(self, results: &[HostTensor], heads: usize, tokens: usize) -> Result<Choice, Error> {
        let finite = results[self.finite].to_f32_vec();
        if let Some(head) = finite.iter().position(|x| !x.is_finite()) {
            let (what, value) = ("one of the scores", finite[head]);
            return Err(ScoreError::NonFiniteToken { what, head, token: 0, value }.into());
        }
        let numbers = results[self.numbers].as_f32().unwrap_or_default();
        let words = || numbers.iter().map(|word| word.to_bits());
        let each = numbers.len() / heads;
        let of_heads = |of_head: &dyn Fn(&[f32]) -> Vec<u32>| -> Vec<Vec<u32>> {
            (0..heads).map(|head| of_head(&numbers[head * each..][..each])).collect()
        };
        let sets = match self.how {
            How::Spans(spans) => return Ok(Choice::Means(spans, numbers.to_vec())),
            How::Staying(ends) => of_heads(&|row| {
                let between = row.iter().map(|word| word.to_bits() + ends.sink as u32);
                before(ends).chain(between).chain(after(ends, tokens)).collect()
            }),
            How::Leaving(ends) => of_heads(&|row| {
                let last = (tokens - ends.recent - 1) as u32;
                let mut leaving = row.iter().rev().map(|word| last - word.to_bits()).peekable();
                (0..tokens as u32).filter(|token| leaving.next_if_eq(token).is_none()).collect()
            }),
            How::Together(ends) => {
                let mut sets = vec![before(ends).collect::<Vec<u32>>(); heads];
                let heads = heads as u32;
                words().for_each(|at| sets[(at % heads) as usize].push(at / heads + ends.sink as u32));
                sets.iter_mut().for_each(|set| set.extend(after(ends, tokens)));
                sets
            }
        };
        Ok(Choice::Kept(KeptIndices::ascending(sets)))
    }
}

fn before(ends: Protected) -> Range<u32> {
    0..ends.sink as u32
}

fn after(ends: Protected, tokens: usize) -> Range<u32> {
    (tokens - ends.recent) as u32..tokens as u32
}

impl<E: TokenEngine> TokenCache<E> {
    /// Queues a choice by scores of a layer whose heads hold equally many tokens. None where nothing of the scores is
    /// on the device.
    pub(super) fn ask_choice(
        &self,
        layer: usize,
        held: &SequenceLayer<E::Tensor>,
        (score, choice): (&ScoreExpr, ScoreChoice),
        results: &mut Vec<E::Tensor>,
    ) -> Result<Option<Choosing>, Error> {
        if score.leaves().is_empty() {
            return Ok(None);
        }
        let (engine, heads) = (&self.engine, held.heads.len());
        let mut with = DeviceArithmetic { cache: self, layer, held, heads: 0..heads, leaves: Vec::new() };
        let tokens = with.tokens();
        let mut queue = |how: How, numbers: E::Tensor, finite: E::Tensor| {
            let chosen = Choosing { how, numbers: results.len(), finite: results.len() + 1 };
            results.extend([numbers, finite]);
            Ok(Some(chosen))
        };
        let (kept, protected) = match choice {
            ScoreChoice::Spans(spans) => {
                let scores = score.work_out(&mut with)?;
                let ScoreSpans { first, size, end } = spans;
                let means = engine.score_op(&ScoreOp::SpanMeans { first, size, end }, &[&scores])?;
                let finite = engine.score_op(&ScoreOp::Finite, &[&scores])?;
                return queue(How::Spans(spans), means, finite);
            }
            ScoreChoice::Each(share) => (share.kept, share.protected),
            ScoreChoice::Together { kept, protected, .. } => (kept, protected),
        };
        let ends = protected.within(kept, tokens);
        let between = tokens - ends.sink - ends.recent;
        let stays = kept - ends.sink - ends.recent;
        let (score, by, before) = score.ordering((ends.sink, ends.recent));
        let scores = score.work_out(&mut with)?;
        let first = ends.sink - before;
        let columns = |by: f32, reversed: bool| {
            let op = ScoreOp::Columns { first, count: between, by, reversed };
            engine.score_op(&op, &[&scores])
        };
        let finite = |columns: &E::Tensor| engine.score_op(&ScoreOp::Finite, &[columns]);
        match choice {
            ScoreChoice::Together { least, .. } => {
                let mut columns = columns(by, false)?;
                let finite = finite(&columns)?;
                let count = least.min(kept).saturating_sub(ends.sink + ends.recent);
                if count > 0 {
                    let raise = ScoreOp::Raise { count, first: 0, last: 0 };
                    columns = engine.score_op(&raise, &[&columns, &columns])?;
                }
                let all = engine.score_op(&ScoreOp::Interleaved, &[&columns])?;
                queue(How::Together(ends), engine.words(&engine.top_k(&all, heads * stays)?)?, finite)
            }
            // Fewer numbers come back: those that stay or those that leave, of which of equal scores the later leave
            // first.
            _ if between - stays < stays => {
                let columns = columns(-by, true)?;
                let finite = finite(&columns)?;
                let leaving = engine.top_k(&columns, between - stays)?;
                queue(How::Leaving(ends), engine.words(&leaving)?, finite)
            }
            _ => {
                let columns = columns(by, false)?;
                let finite = finite(&columns)?;
                queue(How::Staying(ends), engine.words(&engine.top_k(&columns, stays)?)?, finite)
            }
        }
    }
}
