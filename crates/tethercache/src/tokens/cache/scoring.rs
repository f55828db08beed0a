//! Scores of all layers, worked out where the keys are: what is asked is queued for every layer, and waited for once.

use std::ops::Range;

use tether_core::{HostTensor, Readback, ScoreLeaf, TokenEngine};
use tether_score::ScoreError;
use tether_score::tokens::{HeadShare, KeptIndices, TokenObservation};

use super::head_pages::HeadPages;
use super::observed::Observed;
use super::pending::Chosen;
use super::side_by_side::side_by_side;
use super::{Sequence, SequenceLayer, TokenCache};
use crate::Error;
use crate::tokens::{LayerContext, ScoreAsked, SequenceState, TokenPlan};

/// Numbers of key heads `heads`: a leaf, and which result has it.
#[derive(Debug)]
struct AskedLeaf {
    heads: Range<usize>,
    leaf: ScoreLeaf,
    result: usize,
}

/// What was queued for one layer.
#[derive(Debug)]
enum Asked {
    /// Leaves of its scores; none where keys are asked themselves, or nothing.
    Leaves(Vec<AskedLeaf>),
    /// Which tokens score highest: the results that have their numbers and, for what cannot be ranked, the mean of the scores.
    Highest { share: HeadShare, chosen: usize, mean: usize },
}

/// A leaf that was worked out, `[heads, columns]`.
#[derive(Debug)]
pub(super) struct KnownLeaf {
    pub heads: Range<usize>,
    pub leaf: ScoreLeaf,
    pub numbers: Vec<f32>,
}

/// Plans of all layers, and what the device chose for them.
#[derive(Debug)]
pub(super) struct Decisions<T> {
    pub plans: Vec<TokenPlan>,
    /// None for a layer that was decided on the host; nothing at all where nothing was decided.
    pub chosen: Vec<Option<Chosen<T>>>,
}

impl<T> Default for Decisions<T> {
    fn default() -> Self {
        Self { plans: Vec::new(), chosen: Vec::new() }
    }
}

impl<E: TokenEngine> TokenCache<E> {
    /// Plans of all layers.
    pub(super) fn plans(
        &self,
        held: &Sequence<E::Tensor>,
        state: &mut SequenceState,
    ) -> Result<Decisions<E::Tensor>, Error> {
        let turn = |layer: usize| LayerContext {
            layer,
            layers: self.geometry.layers,
            seen: held.layers[layer].seen,
            decoding: held.decoding,
        };
        let mut results = Vec::new();
        let asked = held
            .layers
            .iter()
            .enumerate()
            .map(|(layer, of_layer)| self.ask(turn(layer), of_layer, &mut results))
            .collect::<Result<Vec<_>, Error>>()?;
        let on_device = results;
        let results = match on_device.as_slice() {
            [] => Vec::new(),
            some => self.engine.read(&some.iter().collect::<Vec<_>>())?.wait()?,
        };
        let kept = self.highest(held, &asked, &results);
        let of_layer = |(asked, held): (&Asked, &SequenceLayer<E::Tensor>)| {
            let &Asked::Highest { share, chosen, .. } = asked else { return None };
            let ends = share.protected.within(share.kept, held.heads[0].len());
            Some(Chosen { words: on_device[chosen].clone(), ends })
        };
        let chosen = asked.iter().zip(&held.layers).map(of_layer).collect();
        let layers = held.layers.iter().zip(asked.into_iter().zip(kept)).enumerate();
        let plan =
            |(layer, (of_layer, asked))| self.plan_layer(turn(layer), of_layer, asked, &results, state);
        Ok(Decisions { plans: layers.map(plan).collect::<Result<_, Error>>()?, chosen })
    }

    /// Queues what the scores of a layer are made of.
    fn ask(
        &self,
        turn: LayerContext,
        held: &SequenceLayer<E::Tensor>,
        results: &mut Vec<E::Tensor>,
    ) -> Result<Asked, Error> {
        let lengths: Vec<usize> = held.heads.iter().map(HeadPages::len).collect();
        let none = Asked::Leaves(Vec::new());
        let Some(asked) = self.planner.asks(turn, &lengths)? else { return Ok(none) };
        let leaves = |head: usize| asked.expressions[head].leaves();
        let there = |head: usize| leaves(head).iter().all(|leaf| self.can_observe(held, leaf, lengths[head]));
        if !(0..lengths.len()).all(there) {
            return Ok(none);
        }
        let uniform = lengths.iter().all(|&n| n == lengths[0]);
        if uniform && let Some(highest) = self.ask_highest(turn.layer, held, &asked, results)? {
            return Ok(highest);
        }
        let together = if uniform { lengths.len() } else { 1 };
        let groups: Vec<Range<usize>> =
            (0..lengths.len()).step_by(together).map(|first| first..first + together).collect();
        let mut all = Vec::new();
        for heads in groups {
            for leaf in leaves(heads.start) {
                if leaf.columns(lengths[heads.start]) == 0 {
                    continue;
                }
                all.push(AskedLeaf { heads: heads.clone(), leaf, result: results.len() });
                results.push(self.observe(turn.layer, held, heads.clone(), &leaf)?);
            }
        }
        Ok(Asked::Leaves(all))
    }

    /// Queues the choice of the highest scores, where that is all there is to choose by and few of the tokens stay: their numbers are fewer bytes than all scores.
    fn ask_highest(
        &self,
        layer: usize,
        held: &SequenceLayer<E::Tensor>,
        asked: &ScoreAsked,
        results: &mut Vec<E::Tensor>,
    ) -> Result<Option<Asked>, Error> {
        let tokens = held.heads[0].len();
        let Some(share) = asked.highest.filter(|share| share.kept * 2 <= tokens) else { return Ok(None) };
        let Some((leaf, factor, (oldest, newest))) = asked.expressions[0].ordered_by() else {
            return Ok(None);
        };
        let ends = share.protected.within(share.kept, tokens);
        let between = ends.sink..tokens - ends.recent;
        // The first and the last tokens stand above all others: they are protected, or the leaf does not say it all.
        if oldest > ends.sink || newest > ends.recent || oldest + leaf.columns(tokens) + newest != tokens {
            return Ok(None);
        }
        let scores = self.observe(layer, held, 0..held.heads.len(), &leaf)?;
        let columns = between.start - oldest..between.end - oldest;
        let (scores, mean) = self.engine.score_columns(&scores, columns, factor)?;
        let chosen = self.engine.top_k(&scores, share.kept - ends.sink - ends.recent)?;
        let asked = Asked::Highest { share, chosen: results.len(), mean: results.len() + 1 };
        results.extend([self.engine.words(&chosen)?, mean]);
        Ok(Some(asked))
    }

    /// The tokens that were chosen on the device and those that are protected, of the layers where they were.
    fn highest(
        &self,
        held: &Sequence<E::Tensor>,
        asked: &[Asked],
        results: &[HostTensor],
    ) -> Vec<Option<KeptIndices>> {
        let layers: Vec<_> = asked.iter().zip(held.layers.iter().map(|l| l.heads[0].len())).collect();
        let heads = self.geometry.kv_heads;
        let of =
            |asked: &Asked| if let Asked::Highest { share, .. } = asked { share.kept * heads } else { 0 };
        let all = asked.iter().map(of).sum();
        side_by_side(&layers, all, |(asked, tokens)| {
            let &&Asked::Highest { share, chosen, .. } = asked else { return None };
            let ends = share.protected.within(share.kept, *tokens);
            let first = ends.sink as u32;
            let of_head = |row: &[f32]| -> Vec<u32> {
                let between = row.iter().map(|word| word.to_bits() + first);
                let recent = (tokens - ends.recent) as u32..*tokens as u32;
                (0..first).chain(between).chain(recent).collect()
            };
            let chosen = results[chosen].as_f32().unwrap_or_default();
            let sets = match share.kept - ends.sink - ends.recent {
                0 => vec![of_head(&[]); heads],
                width => chosen.chunks_exact(width).map(of_head).collect(),
            };
            Some(KeptIndices::ascending(sets))
        })
    }

    fn plan_layer(
        &self,
        turn: LayerContext,
        held: &SequenceLayer<E::Tensor>,
        (asked, kept): (Asked, Option<KeptIndices>),
        results: &[HostTensor],
        state: &mut SequenceState,
    ) -> Result<TokenPlan, Error> {
        let heads = 0..self.geometry.kv_heads;
        let lengths: Vec<usize> = held.heads.iter().map(HeadPages::len).collect();
        let leaves = match asked {
            Asked::Highest { mean, .. } => {
                let means = results[mean].to_f32_vec();
                if let Some(head) = means.iter().position(|x| !x.is_finite()) {
                    let (what, value) = ("the mean of the scores", means[head]);
                    return Err(ScoreError::NonFiniteToken { what, head, token: 0, value }.into());
                }
                return Ok(self.planner.plan_chosen(turn, &lengths, kept.unwrap_or_default()));
            }
            Asked::Leaves(leaves) => leaves,
        };
        let known = |AskedLeaf { heads, leaf, result }| KnownLeaf {
            heads,
            leaf,
            numbers: results[result].to_f32_vec(),
        };
        let leaves: Vec<KnownLeaf> = leaves.into_iter().map(known).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let uniform = lengths.iter().all(|&n| n == longest);
        // What is alike in all heads is alike at the same places of their images.
        let alike = |h: &HeadPages| h.grid == held.heads[0].grid;
        let together = uniform && (!self.planner.needs().grid || held.heads.iter().all(alike));
        if together {
            let seen = Observed::held(self, held, turn.layer, heads).knowing(&leaves);
            return self.planner.plan(turn, &seen, state);
        }
        let heads: Vec<_> = heads
            .map(|head| Observed::held(self, held, turn.layer, head..head + 1).knowing(&leaves))
            .collect();
        let heads: Vec<&dyn TokenObservation> = heads.iter().map(|h| h as _).collect();
        self.planner.plan_heads(turn, &heads)
    }
}
