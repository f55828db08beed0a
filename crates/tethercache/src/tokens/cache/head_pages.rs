//! The tokens of one head of one sequence: in which pages they are, and in which order.

use tether_score::tokens::GridPlace;

use super::coded::CodedHead;
use super::original_keys::OriginalKeys;
use super::page_regions::Region;
use super::positions::Positions;

/// Which slot each token of a set has, counted through the pages of a list.
#[derive(Debug)]
pub(super) enum SlotOrder {
    /// The slot of its number in the set.
    InOrder,
    Slots(Vec<u32>),
}

impl SlotOrder {
    fn slot(&self, place: usize) -> usize {
        match self {
            Self::InOrder => place,
            Self::Slots(slots) => slots[place] as usize,
        }
    }
}

/// Pages that are stepped over one by one rather than by a division, which takes longer than so many steps.
const STEPS: u32 = 8;

/// The tokens of one head of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadPages {
    pub blocks: Vec<u32>,
    /// The list's part of the layer's page table.
    pub region: Region,
    /// Positions of its tokens in pages, ascending.
    pub positions: Positions,
    /// The slot of each token: slots of tokens that left are taken by others from the end, so that few rows are copied. Nothing while all of them
    /// are in order.
    order: Vec<u32>,
    /// Where each token stands in an image; nothing while all of them are text.
    pub grid: Vec<Option<GridPlace>>,
    /// Keys of tokens that have moved, as they came.
    pub originals: OriginalKeys,
    /// Tokens that are in no page any more, but codes.
    pub coded: CodedHead,
}

/// How long a list was before tokens were added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    tokens: usize,
    pages: usize,
    last_page: Option<u32>,
    ordered: usize,
    gridded: usize,
}

impl HeadPages {
    /// Tokens in pages.
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// A place to go back to with [`HeadPages::back_to`].
    pub(super) fn mark(&self) -> Mark {
        Mark {
            tokens: self.positions.len(),
            pages: self.blocks.len(),
            last_page: self.blocks.last().copied(),
            ordered: self.order.len(),
            gridded: self.grid.len(),
        }
    }

    /// Forgets what was added, and the copy of the last page.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.positions.truncate(mark.tokens);
        self.blocks.truncate(mark.pages);
        if let (Some(last), Some(was)) = (self.blocks.last_mut(), mark.last_page) {
            *last = was;
        }
        self.region.changed_from(mark.pages.saturating_sub(1));
        self.order.truncate(mark.ordered);
        self.grid.truncate(mark.gridded);
    }

    /// The list as it was when it had only its first `tokens` tokens, since when others were added.
    pub(super) fn first_tokens(&self, tokens: usize, block_size: usize) -> Self {
        let mut list = self.clone();
        list.forget_newest(self.len() - tokens.min(self.len()), block_size);
        list
    }

    /// Forgets the newest `tokens` tokens, which have the last slots. Returns the pages that hold nothing then.
    pub(super) fn forget_newest(&mut self, tokens: usize, block_size: usize) -> Vec<u32> {
        let left = self.len().saturating_sub(tokens);
        self.positions.truncate(left);
        self.order.truncate(left);
        self.grid.truncate(left);
        let gone = self.blocks.split_off(left.div_ceil(block_size).min(self.blocks.len()));
        self.region.changed_from(self.blocks.len());
        gone
    }

    /// The page that a copy took the place of when tokens were added.
    pub(super) fn replaced(&self, mark: Mark) -> Option<u32> {
        let now = mark.pages.checked_sub(1).and_then(|last| self.blocks.get(last));
        mark.last_page.filter(|was| now != Some(was))
    }

    /// True where attention to pages is not all: there are codes.
    pub(super) fn has_codes(&self) -> bool {
        !self.coded.is_empty()
    }

    /// Says where the last tokens stand in images, which have positions already; they are text without `places`.
    pub(super) fn set_grid(&mut self, places: Option<&[Option<GridPlace>]>) {
        let places = places.unwrap_or_default();
        if !places.is_empty() {
            self.grid.resize(self.len() - places.len(), None);
            self.grid.extend_from_slice(places);
        } else if !self.grid.is_empty() {
            self.grid.resize(self.len(), None);
        }
    }

    /// Tokens in pages and in codes.
    pub(super) fn held(&self) -> usize {
        self.len() + self.coded.len()
    }

    /// The row of a pool, `[blocks * block_size]`, that holds token number `token`, or will hold it.
    pub(super) fn row(&self, token: usize, block_size: usize) -> u32 {
        let slot = self.slot(token);
        self.blocks[slot / block_size] * block_size as u32 + (slot % block_size) as u32
    }

    /// [`HeadPages::row`] of many tokens; where they ascend, hardly any of them costs a division.
    pub(super) fn rows(
        &self,
        tokens: impl Iterator<Item = u32>,
        block_size: usize,
    ) -> impl Iterator<Item = u32> {
        let size = block_size as u32;
        // The page of the token before, its first slot and its first row.
        let (mut page, mut first, mut base) = (0, 0, self.blocks.first().map_or(0, |&block| block * size));
        tokens.map(move |token| {
            let slot = self.order.get(token as usize).copied().unwrap_or(token);
            let ahead = slot.wrapping_sub(first);
            if ahead >= size {
                if ahead < STEPS * size {
                    while slot - first >= size {
                        (page, first) = (page + 1, first + size);
                    }
                } else {
                    page = (slot / size) as usize;
                    first = page as u32 * size;
                }
                base = self.blocks[page] * size;
            }
            base + (slot - first)
        })
    }

    fn slot(&self, token: usize) -> usize {
        self.order.get(token).map_or(token, |&slot| slot as usize)
    }

    /// True when the tokens of page number `n` are those from `n * block_size` on, in order.
    pub(super) fn is_in_order(&self) -> bool {
        self.order.is_empty()
    }

    /// True when the page table on the device has all pages of the list.
    pub(super) fn is_in_table(&self) -> bool {
        self.region.is_written(self.blocks.len())
    }

    /// The same tokens, to be read: what moves looks at the list itself.
    pub(super) fn view(&self) -> Self {
        let Self { blocks, positions, order, .. } = self;
        Self { blocks: blocks.clone(), positions: positions.clone(), order: order.clone(), ..Self::default() }
    }

    /// Adds tokens, whose slots are after all others.
    pub(super) fn append(&mut self, positions: &[i32]) {
        if !self.order.is_empty() {
            let end = self.len() as u32;
            self.order.extend(end..end + positions.len() as u32);
        }
        self.positions.extend(positions);
    }

    /// The slots of the tokens of `set` once the others have left: those they have, or gaps, so that they fill the first ones.
    pub(super) fn slots_without_gaps(&self, set: &[u32]) -> SlotOrder {
        // Where most leave, nearly every row is copied, and may as well come to lie in order.
        if set.len() * 2 <= self.len() {
            return SlotOrder::InOrder;
        }
        let mut taken = vec![false; set.len()];
        let slot_of = |token: &u32| self.slot(*token as usize);
        for slot in set.iter().map(slot_of) {
            if let Some(taken) = taken.get_mut(slot) {
                *taken = true;
            }
        }
        let mut gaps = (0..set.len()).filter(|&slot| !taken[slot]);
        // There are as many gaps as there are tokens beyond the first slots.
        let slot = |token| Some(slot_of(token)).filter(|&p| p < set.len()).or_else(|| gaps.next());
        SlotOrder::Slots(set.iter().filter_map(slot).map(|slot| slot as u32).collect())
    }

    /// The pages, by their number in the list and ascending, of which a row is written when the tokens of `set` go to the slots of `order`, and when those that
    /// `changed`, by their number in `set`, get other keys.
    pub(super) fn written(
        &self,
        set: &[u32],
        order: &SlotOrder,
        changed: &[usize],
        block_size: usize,
    ) -> Vec<usize> {
        let mut written = vec![false; set.len().div_ceil(block_size)];
        if let (SlotOrder::InOrder, true) = (order, self.is_in_order()) {
            // From the first one that moves up on, all of them do.
            let stay = set.iter().zip(0..).take_while(|&(&token, place)| token == place).count();
            if stay < set.len() {
                written[stay / block_size..].fill(true);
            }
        } else {
            for (place, &token) in set.iter().enumerate() {
                if self.slot(token as usize) != order.slot(place) {
                    written[order.slot(place) / block_size] = true;
                }
            }
        }
        changed.iter().for_each(|&place| written[order.slot(place) / block_size] = true);
        (0..written.len()).filter(|&page| written[page]).collect()
    }

    /// The list without its tokens: what a plan leaves of them is put in.
    pub(super) fn emptied(&self) -> Self {
        Self {
            blocks: self.blocks.clone(),
            coded: self.coded.clone(),
            originals: self.originals.clone(),
            ..Self::default()
        }
    }

    /// Gives the tokens these slots.
    pub(super) fn set_order(&mut self, order: &SlotOrder) {
        self.order = match order {
            SlotOrder::Slots(slots) if !slots.iter().zip(0..).all(|(&slot, place)| slot == place) => {
                slots.clone()
            }
            _ => Vec::new(),
        };
    }
}

/// The lists as compressed rows: where each begins, and all of their pages.
pub(super) fn page_rows(heads: &[HeadPages]) -> (Vec<u32>, Vec<u32>) {
    let (mut indptr, mut blocks) = (vec![0u32], Vec::new());
    for head in heads {
        blocks.extend(&head.blocks);
        indptr.push(blocks.len() as u32);
    }
    (indptr, blocks)
}
