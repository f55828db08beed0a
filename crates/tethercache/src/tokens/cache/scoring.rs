//! Scores of all layers, worked out where the keys are: what is asked is queued for every layer, and waited for once.

use std::ops::Range;

use tether_core::{HostTensor, Readback, ScoreLeaf, TokenEngine};
use tether_score::tokens::{KeptIndices, TokenObservation};

use super::device_scores::{Choice, Choosing};
use super::head_pages::HeadPages;
use super::observed::Observed;
use super::pending::Chosen;
use super::side_by_side::side_by_side;
use super::{Sequence, SequenceLayer, TokenCache};
use crate::Error;
use crate::tokens::{LayerContext, SequenceState, TokenPlan};

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
    /// What is chosen by its scores.
    Chosen(Choosing),
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
        let lengths: Vec<Vec<usize>> =
            held.layers.iter().map(|layer| layer.heads.iter().map(HeadPages::len).collect()).collect();
        let ask = |(layer, of_layer): (usize, &SequenceLayer<E::Tensor>)| match self
            .planner
            .follows(layer, &lengths)
        {
            true => Ok(Asked::Leaves(Vec::new())),
            false => self.ask(turn(layer), of_layer, &lengths[layer], &mut results),
        };
        let asked = held.layers.iter().enumerate().map(ask).collect::<Result<Vec<_>, Error>>()?;
        let on_device = results;
        let results = match on_device.as_slice() {
            [] => Vec::new(),
            some => self.engine.read(&some.iter().collect::<Vec<_>>())?.wait()?,
        };
        let of_layer = |asked: &Asked| {
            let Asked::Chosen(chosen) = asked else { return None };
            let (words, ends) = chosen.staying()?;
            Some(Chosen { words: on_device[words].clone(), ends })
        };
        let chosen = asked.iter().map(of_layer).collect();
        let choices = self.chosen_of_layers(held, &asked, &results);
        let layers = held.layers.iter().zip(asked.into_iter().zip(choices)).enumerate();
        let plan =
            |(layer, (of_layer, asked))| self.plan_layer(turn(layer), of_layer, asked, &results, state);
        Ok(Decisions { plans: layers.map(plan).collect::<Result<_, Error>>()?, chosen })
    }

    /// Queues what the scores of a layer are made of.
    fn ask(
        &self,
        turn: LayerContext,
        held: &SequenceLayer<E::Tensor>,
        lengths: &[usize],
        results: &mut Vec<E::Tensor>,
    ) -> Result<Asked, Error> {
        let none = Asked::Leaves(Vec::new());
        let Some(asked) = self.planner.asks(turn, lengths)? else { return Ok(none) };
        let leaves = |head: usize| asked.expressions[head].leaves();
        let there = |head: usize| {
            leaves(head).iter().all(|leaf| self.can_observe((turn.layer, held), leaf, lengths[head]))
        };
        if !(0..lengths.len()).all(there) {
            return Ok(none);
        }
        // What is alike in all heads is alike at the same places of their frames.
        let alike = !self.planner.needs().grid || held.heads.iter().all(|h| h.grid == held.heads[0].grid);
        if let Some(choice) = asked.choice.filter(|_| alike)
            && let Some(chosen) =
                self.ask_choice(turn.layer, held, (&asked.expressions[0], choice), results)?
        {
            return Ok(Asked::Chosen(chosen));
        }
        let uniform = alike && lengths.iter().all(|&n| n == lengths[0]);
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

    /// What was chosen on the device, of the layers where something was.
    fn chosen_of_layers(
        &self,
        held: &Sequence<E::Tensor>,
        asked: &[Asked],
        results: &[HostTensor],
    ) -> Vec<Option<Result<Choice, Error>>> {
        let layers: Vec<_> = asked.iter().zip(held.layers.iter().map(|l| l.heads[0].len())).collect();
        let heads = self.geometry.kv_heads;
        let of = |(asked, tokens): &(&Asked, usize)| match asked {
            Asked::Chosen(_) => tokens * heads,
            Asked::Leaves(_) => 0,
        };
        side_by_side(&layers, layers.iter().map(of).sum(), |(asked, tokens)| match asked {
            Asked::Chosen(chosen) => Some(chosen.read(results, heads, *tokens)),
            Asked::Leaves(_) => None,
        })
    }

    fn plan_layer(
        &self,
        turn: LayerContext,
        held: &SequenceLayer<E::Tensor>,
        (asked, choice): (Asked, Option<Result<Choice, Error>>),
        results: &[HostTensor],
        state: &mut SequenceState,
    ) -> Result<TokenPlan, Error> {
        let heads = 0..self.geometry.kv_heads;
        let lengths: Vec<usize> = held.heads.iter().map(HeadPages::len).collect();
        let leaves = match asked {
            Asked::Chosen(_) => {
                let keep = match choice.transpose()? {
                    Some(Choice::Kept(keep)) => keep,
                    Some(Choice::Means(spans, means)) => {
                        self.planner.choose_spans(turn, &lengths, spans, &means)?
                    }
                    None => KeptIndices::default(),
                };
                return Ok(self.planner.plan_chosen(turn, &lengths, keep, state));
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
