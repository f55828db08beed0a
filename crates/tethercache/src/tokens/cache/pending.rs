//! An eviction that has been decided and is not done, or not in all layers.

use std::borrow::Cow;
use std::collections::VecDeque;

use tether_score::tokens::{KeptIndices, Protected};

use super::coded::SharedFrames;
use super::evict::{Coding, EvictReport};
use super::head_pages::HeadPages;
use crate::tokens::{SequenceState, TokenPlan};

/// Tokens that stay of each head: the first ones, those that were chosen, and the last ones.
#[derive(Clone, Debug)]
pub(super) struct Chosen<T> {
    /// Words of `[kv_heads, n]` numbers, counted from the sinks on.
    pub words: T,
    /// How many the first and the last ones are.
    pub ends: Protected,
}

/// What is to be done to one layer.
#[derive(Clone, Debug)]
pub(super) struct PendingLayer<T> {
    pub plan: TokenPlan,
    /// Tokens that each head had when it was decided: what has come since stays.
    pub lengths: Vec<usize>,
    /// What stays, as the device chose it; none where it was chosen on the host.
    pub chosen: Option<Chosen<T>>,
    /// The codes that heads are to have; nothing where none are.
    pub codings: Vec<Coding>,
}

/// What is left to be done of an eviction. A device that fails in the middle leaves it here, and the next call goes on.
#[derive(Clone, Debug)]
pub(super) struct Pending<T> {
    pub state: SequenceState,
    pub layers: VecDeque<PendingLayer<T>>,
    /// What codes of each layer are relative to then; nothing where none are made.
    pub frames: Vec<SharedFrames<T>>,
    /// Tokens of layer 0 when it was decided.
    pub seen: usize,
    pub report: EvictReport,
    /// Bytes that were held before.
    pub held_before: u64,
}

impl<T> PendingLayer<T> {
    /// True where no token has come since it was decided.
    pub(super) fn is_of(&self, heads: &[HeadPages]) -> bool {
        heads.iter().zip(&self.lengths).all(|(head, &length)| head.len() == length)
    }

    /// The plan, with tokens that have come since it was made.
    pub(super) fn with_later_tokens(&self, heads: &[HeadPages]) -> Cow<'_, TokenPlan> {
        if self.is_of(heads) {
            return Cow::Borrowed(&self.plan);
        }
        let mut plan = self.plan.clone();
        let sets = plan.keep.sets().iter().zip(heads).zip(&self.lengths);
        let later = |((set, head), &length): ((&Vec<u32>, &HeadPages), &usize)| {
            set.iter().copied().chain(length as u32..head.len() as u32).collect::<Vec<u32>>()
        };
        plan.keep = KeptIndices::new(sets.map(later).collect());
        let lengths = || heads.iter().map(HeadPages::len);
        (plan.total, plan.tokens) = (lengths().sum(), lengths().max().unwrap_or(0));
        if let Some(positions) = &mut plan.positions {
            for (positions, set) in positions.iter_mut().zip(plan.keep.sets()) {
                let next = positions.last().map_or(0, |last| last + 1);
                positions.extend((next..).take(set.len() - positions.len()));
            }
        }
        Cow::Owned(plan)
    }
}
