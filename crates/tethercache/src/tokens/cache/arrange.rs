//! Where the rows of tokens that stay will be. It takes lists and a plan and no device, so that the layers of an eviction are arranged side by side.

use tether_edit::tokens::Merge;
use tether_layout::BlockPool;

use super::head_pages::{HeadPages, SlotOrder};
use super::layer_pools::Shrunk;
use super::original_keys::HeadMoves;
use super::pending::PendingLayer;
use super::side_by_side::side_by_side;
use crate::tokens::TokenPlan;

/// Pages from which on freeing them is worth a copy of what is known of all pages, which is made beside other layers.
const MANY_PAGES: usize = 1 << 10;

/// What changes of tokens that stay: moves of each head, merges, head after head, and heads whose evicted tokens join
/// those like them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes<'a> {
    pub moves: Option<&'a [HeadMoves]>,
    pub merges: &'a [Merge],
    /// Heads of which any token that stays may change; none where none does.
    pub joins: &'a [bool],
}

impl<'a> Changes<'a> {
    /// Tokens of a head that move, by their numbers among those that stay.
    fn moved(&self, head: usize) -> &'a [usize] {
        self.moves.map_or(&[], |moves| &moves[head].moved)
    }

    fn joins(&self, head: usize) -> bool {
        self.joins.get(head) == Some(&true)
    }

    /// Tokens of `set` that others become part of, by their numbers in it.
    fn merged(&self, head: usize, set: &[u32]) -> Vec<usize> {
        if self.joins(head) {
            return (0..set.len()).collect();
        }
        let of_head = self.merges.iter().filter(|merge| merge.head == head);
        of_head.filter_map(|merge| set.binary_search(&merge.into).ok()).collect()
    }
}

/// Rows that are written: where from, where to, and which of them are tokens that change.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub from: Vec<u32>,
    pub to: Vec<u32>,
    /// For each token that moves, head after head, its number among the rows.
    pub moved: Vec<u32>,
    /// Where those tokens stand then.
    pub positions: Vec<i32>,
    /// For each merge, the number of its token among the rows.
    pub merged: Vec<u32>,
    /// For each head whose evicted tokens join those like them, the numbers of all that stays of it among the rows.
    pub joined: Vec<Vec<u32>>,
}

/// The slots that what stays of a head will have.
#[derive(Debug)]
struct HeadSlots<'a> {
    order: SlotOrder,
    /// Pages, by their number in the list, of which rows are written.
    written: Vec<usize>,
    moved: &'a [usize],
    merged: Vec<usize>,
}

/// The slots that what stays of a layer will have.
#[derive(Debug)]
pub(super) struct Slots<'a>(Vec<HeadSlots<'a>>);

/// Lists as they are to be, and what has to be done for it.
#[derive(Debug)]
pub(super) struct Arranged {
    pub heads: Vec<HeadPages>,
    /// None where the device tells them itself.
    pub rows: Option<Rows>,
    /// Pages that nobody refers to then.
    pub given_up: Vec<u32>,
    pub freed: Option<Freed>,
}

/// The pages of a layer once what is given up is free.
#[derive(Debug)]
pub(super) struct Freed {
    pub pool: BlockPool,
    pub shrunk: Option<Shrunk>,
}

impl Freed {
    /// None for so few that it takes no time to free them.
    fn of(pool: &BlockPool, given_up: &[u32], least: usize) -> Option<Self> {
        if given_up.len() < MANY_PAGES {
            return None;
        }
        let mut pool = pool.clone();
        given_up.iter().try_for_each(|&page| pool.release(page).map(drop)).ok()?;
        let shrunk = Shrunk::of(&pool, least);
        Some(Self { pool, shrunk })
    }
}

impl<'a> Slots<'a> {
    pub(super) fn new(heads: &[HeadPages], plan: &TokenPlan, changes: &Changes<'a>, size: usize) -> Self {
        let of_head = |(number, (head, set)): (usize, (&HeadPages, &Vec<u32>))| {
            let (moved, merged) = (changes.moved(number), changes.merged(number, set));
            let order = head.slots_without_gaps(set);
            let written = head.written(set, &order, &[moved, &merged].concat(), size);
            HeadSlots { order, written, moved, merged }
        };
        Self(heads.iter().zip(plan.keep.sets()).enumerate().map(of_head).collect())
    }

    /// Pages that are written and that others read too: pages of one's own take their places.
    pub(super) fn shared(&self, heads: &[HeadPages], pool: &BlockPool) -> usize {
        let of_head = |(slots, head): (&HeadSlots<'_>, &HeadPages)| {
            slots.written.iter().filter(|&&page| pool.references(head.blocks[page]) > 1).count()
        };
        self.0.iter().zip(heads).map(of_head).sum()
    }

    /// Lists `made` of `old` ones without their tokens, with what stays of them, and the pages that nobody refers to then; `fresh` are as many pages as
    /// [`Slots::shared`] says.
    pub(super) fn lists(
        &self,
        (old, mut made): (&[HeadPages], Vec<HeadPages>),
        plan: &TokenPlan,
        (pool, fresh): (&BlockPool, &[u32]),
        size: usize,
    ) -> (Vec<HeadPages>, Vec<u32>) {
        let (mut fresh, mut given_up) = (fresh.iter().copied(), Vec::new());
        for ((head, old), (slots, set)) in made.iter_mut().zip(old).zip(self.0.iter().zip(plan.keep.sets())) {
            head.blocks.truncate(set.len().div_ceil(size));
            for &page in &slots.written {
                // Others read this page: what stays of it goes to one of our own.
                let page = &mut head.blocks[page];
                if pool.references(*page) > 1
                    && let Some(own) = fresh.next()
                {
                    *page = own;
                }
            }
            head.set_order(&slots.order);
            let kept = head.blocks.iter().map(Some).chain(std::iter::repeat(None));
            given_up.extend(old.blocks.iter().zip(kept).filter(|(a, b)| Some(*a) != *b).map(|(a, _)| *a));
            head.positions = old.positions.of_tokens(set);
            if !old.grid.is_empty() {
                head.grid = set.iter().map(|&t| old.grid[t as usize]).collect();
            }
        }
        (made, given_up)
    }

    /// The rows that are written for it.
    pub(super) fn rows(
        &self,
        (old, made): (&[HeadPages], &[HeadPages]),
        plan: &TokenPlan,
        changes: &Changes<'_>,
        size: usize,
    ) -> Rows {
        let (mut rows, total) = (Rows::default(), plan.keep.total());
        rows.from.reserve(total);
        rows.to.reserve(total);
        for (number, ((head, old), slots)) in made.iter().zip(old).zip(&self.0).enumerate() {
            let HeadSlots { moved, merged, .. } = slots;
            let set = plan.keep.head(number);
            let new_positions = changes.moves.map_or(&[][..], |moves| &moves[number].positions);
            // The number among the rows of each token that others become part of, by its number in the set.
            let mut merged_at = vec![None; if merged.is_empty() { 0 } else { set.len() }];
            merged.iter().for_each(|&place| merged_at[place] = Some(0));
            let sources = old.rows(set.iter().copied(), size);
            let targets = head.rows(0..set.len() as u32, size);
            for (place, (source, target)) in sources.zip(targets).enumerate() {
                let moves = moved.binary_search(&place).is_ok();
                let merges = merged_at.get(place).is_some_and(Option::is_some);
                if source == target && !moves && !merges {
                    continue;
                }
                let at = rows.from.len() as u32;
                if moves {
                    rows.moved.push(at);
                    rows.positions.push(new_positions[place]);
                }
                if merges {
                    merged_at[place] = Some(at);
                }
                rows.from.push(source);
                rows.to.push(target);
            }
            // In the order of the head's merges.
            let at = merged.iter().filter_map(|&place| merged_at[place]);
            if changes.joins(number) {
                rows.joined.push(at.collect());
            } else {
                rows.merged.extend(at);
            }
        }
        rows
    }
}

/// The layers of an eviction of which nothing but which tokens stay has to be known, each `None` where it is otherwise.
pub(super) fn arranged_together<'a, T: 'a>(
    pending: impl Iterator<Item = (&'a PendingLayer<T>, &'a [HeadPages], &'a BlockPool)>,
    size: usize,
) -> Vec<Option<Arranged>> {
    let of_layer = |(next, heads, pool): (&'a PendingLayer<T>, &'a [HeadPages], &'a BlockPool)| {
        let told = next.chosen.is_some() && next.is_of(heads);
        (next.with_later_tokens(heads), told, heads, pool)
    };
    let layers: Vec<_> = pending.map(of_layer).collect();
    let tokens = layers.iter().map(|(plan, ..)| plan.keep.total()).sum::<usize>();
    side_by_side(&layers, tokens, |&(ref plan, told, heads, pool)| {
        if !plan.edits.is_empty() || plan.positions.is_some() || plan.is_nothing() {
            return None;
        }
        let changes = Changes::default();
        let slots = Slots::new(heads, plan, &changes, size);
        if slots.shared(heads, pool) > 0 {
            return None;
        }
        let made = heads.iter().map(HeadPages::emptied).collect();
        let (made, given_up) = slots.lists((heads, made), plan, (pool, &[]), size);
        let in_place = |(old, new): (&HeadPages, &HeadPages)| {
            old.is_in_order() && old.is_in_table() && new.is_in_order() && old.len() == heads[0].len()
        };
        let told = told && heads.iter().zip(&made).all(in_place);
        let rows = (!told).then(|| slots.rows((heads, &made), plan, &changes, size));
        let freed = Freed::of(pool, &given_up, heads.len());
        Some(Arranged { heads: made, rows, given_up, freed })
    })
}
