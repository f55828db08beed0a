//! Evictions of texts that several sequences share, done once for all of them.
//!
//! Forks share pages. When one of them evicts, what stays goes to pages of its own, because the others still read the old ones. The next one that comes to the same decision
//! about the same pages has no need of further copies: it shares what the first one made.

use tether_core::TokenEngine;

use super::head_pages::HeadPages;
use super::{BesidePages, SequenceId, TokenCache};
use crate::Error;
use crate::tokens::TokenPlan;

/// What was made of lists that others shared. It refers to no page: it says where what was made is, as long as that is what it was.
#[derive(Clone, Debug)]
pub(super) struct SharedEviction {
    /// Pages and tokens of each head before.
    source: Vec<(Vec<u32>, usize)>,
    plan: TokenPlan,
    /// Tokens that others became part of.
    merged: usize,
    /// Who made it, and when rows of that layer were last written anew.
    sequence: SequenceId,
    stamp: u64,
    /// Who had the same lists then, and since when: as long as they have them, their rows are what they were.
    sharers: Vec<(SequenceId, u64)>,
}

/// Lists that another sequence has made.
#[derive(Debug)]
pub(super) struct KnownLists<T> {
    pub heads: Vec<HeadPages>,
    pub beside: BesidePages<T>,
    pub stamp: u64,
    pub merged: usize,
}

fn source(heads: &[HeadPages]) -> Vec<(Vec<u32>, usize)> {
    heads.iter().map(|head| (head.blocks.clone(), head.len())).collect()
}

impl<E: TokenEngine> TokenCache<E> {
    /// Which other sequences have the same lists of a layer; none where a page is not shared, so that it may be written where it lies.
    pub(super) fn sharers(
        &self,
        heads: &[HeadPages],
        sequence: SequenceId,
        layer: usize,
    ) -> Vec<(SequenceId, u64)> {
        let pool = &self.layers[layer].pool;
        if heads.iter().flat_map(|head| &head.blocks).any(|&page| pool.references(page) < 2) {
            return Vec::new();
        }
        let own = source(heads);
        let others = self.sequences.iter().filter(|(id, _)| **id != sequence);
        let same = others.filter(|(_, other)| source(&other.layers[layer].heads) == own);
        same.map(|(&id, other)| (id, other.layers[layer].stamp)).collect()
    }

    /// Remembers what became of lists that others share; of lists that nobody shares nothing has to be remembered.
    pub(super) fn remember(
        &mut self,
        before: &[HeadPages],
        plan: &TokenPlan,
        (sequence, stamp): (SequenceId, u64),
        (sharers, merged): (Vec<(SequenceId, u64)>, usize),
    ) {
        let some = !sharers.is_empty();
        self.shared[plan.layer] = some.then(|| SharedEviction {
            source: source(before),
            plan: plan.clone(),
            merged,
            sequence,
            stamp,
            sharers,
        });
    }

    /// Lists that another sequence has made of the same ones by the same plan, whose pages are counted once more; `None` where there are none.
    pub(super) fn made_before(
        &mut self,
        (heads, sharer): (&[HeadPages], (SequenceId, u64)),
        plan: &TokenPlan,
    ) -> Result<Option<KnownLists<E::Tensor>>, Error> {
        let Some(known) = &self.shared[plan.layer] else { return Ok(None) };
        let same = |other: &TokenPlan| {
            (&other.keep, &other.edits, &other.positions) == (&plan.keep, &plan.edits, &plan.positions)
        };
        if !known.sharers.contains(&sharer) || !same(&known.plan) || known.source != source(heads) {
            return Ok(None);
        }
        let merged = known.merged;
        let maker = self.sequences.get(&known.sequence).map(|maker| &maker.layers[plan.layer]);
        let Some(maker) = maker.filter(|maker| maker.stamp == known.stamp) else { return Ok(None) };
        let size = self.geometry.block_size;
        let made: Vec<HeadPages> = maker
            .heads
            .iter()
            .zip(plan.keep.sets())
            .map(|(head, set)| head.first_tokens(set.len(), size))
            .collect();
        let (beside, stamp) = (maker.beside.clone(), maker.stamp);
        for &page in made.iter().flat_map(|head| &head.blocks) {
            self.layers[plan.layer].pool.share(page)?;
        }
        Ok(Some(KnownLists { heads: made, beside, stamp, merged }))
    }
}
