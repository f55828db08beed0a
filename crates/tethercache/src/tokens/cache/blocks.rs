//! The memory of one layer: blocks of keys and values, and the lists that refer to them.

use std::collections::BTreeSet;

use tether_core::{HostTensor, TokenEngine};
use tether_edit::tokens::Compensation;
use tether_layout::BlockPool;
use tether_score::tokens::GridPlace;

use super::TokenGeometry;
use super::coded::CodedHead;
use super::moves::Homes;
use crate::Error;

/// Pools `[blocks, block_size, 1, head_dim]` of keys and of values, and which of their blocks are in use.
#[derive(Debug)]
pub(super) struct LayerBlocks<E: TokenEngine> {
    pub k: E::Tensor,
    pub v: E::Tensor,
    pub pool: BlockPool,
}

/// Where tokens lie, counted through the blocks of a list.
#[derive(Debug)]
pub(super) struct Places(Vec<u32>);

/// The tokens of one head of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadList {
    pub blocks: Vec<u32>,
    /// Positions of its tokens in blocks, ascending.
    pub positions: Vec<i32>,
    /// Where each token lies, counted through the blocks: the places of tokens that left are taken by others from the end, so that few rows are copied.
    /// Nothing while all of them lie in order.
    places: Vec<u32>,
    /// Where each token stands in a picture; nothing while all of them are text.
    pub grid: Vec<Option<GridPlace>>,
    /// Attention that each token got so far from each query head of the group, `[group, tokens]` as a row for each query head.
    pub mass: Vec<Vec<f32>>,
    /// Keys of tokens that have moved, as they came.
    pub homes: Homes,
    /// What stands for the tokens that left.
    pub compensation: Option<Compensation>,
    /// Tokens that are in no block any more, but codes.
    pub coded: CodedHead,
}

impl HeadList {
    /// Tokens in blocks.
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// Says where the last tokens stand, which have positions already; they are text without `places`.
    pub(super) fn stand(&mut self, places: Option<&[Option<GridPlace>]>) {
        let places = places.unwrap_or_default();
        if !places.is_empty() {
            self.grid.resize(self.len() - places.len(), None);
            self.grid.extend_from_slice(places);
        } else if !self.grid.is_empty() {
            self.grid.resize(self.len(), None);
        }
    }

    /// Tokens in blocks and in codes.
    pub(super) fn held(&self) -> usize {
        self.len() + self.coded.len()
    }

    /// Bytes of the token that stands for those that left.
    pub(super) fn compensation_bytes(&self) -> u64 {
        let of = |token: &Compensation| size_of_val(&token.key[..]) + size_of_val(&token.value[..]);
        self.compensation.as_ref().map_or(0, of) as u64
    }

    /// The row of a pool, `[blocks * block_size]`, that holds token number `token`, or will hold it.
    pub(super) fn row(&self, token: usize, block_size: usize) -> u32 {
        let place = self.place(token);
        self.blocks[place / block_size] * block_size as u32 + (place % block_size) as u32
    }

    fn place(&self, token: usize) -> usize {
        self.places.get(token).map_or(token, |&place| place as usize)
    }

    /// True when the tokens of block number `n` are those from `n * block_size` on, in order.
    pub(super) fn is_in_order(&self) -> bool {
        self.places.is_empty()
    }

    /// The same tokens, to be read: what counts attention and moves looks at the list itself.
    pub(super) fn bare(&self) -> Self {
        let Self { blocks, positions, places, .. } = self;
        Self {
            blocks: blocks.clone(),
            positions: positions.clone(),
            places: places.clone(),
            ..Self::default()
        }
    }

    /// Adds tokens, which lie after all others.
    pub(super) fn append(&mut self, positions: &[i32]) {
        if !self.places.is_empty() {
            let end = self.len() as u32;
            self.places.extend(end..end + positions.len() as u32);
        }
        self.positions.extend_from_slice(positions);
    }

    /// Where the tokens of `set` lie once the others have left: where they do, or in the gaps, so that they fill the first places.
    pub(super) fn places_without_gaps(&self, set: &[u32]) -> Places {
        let mut taken = vec![false; set.len()];
        let lies = |token: &u32| self.place(*token as usize);
        for place in set.iter().map(lies) {
            if let Some(taken) = taken.get_mut(place) {
                *taken = true;
            }
        }
        let mut gaps = (0..set.len()).filter(|&place| !taken[place]);
        // There are as many gaps as there are tokens beyond the first places.
        let place = |token| Some(lies(token)).filter(|&p| p < set.len()).or_else(|| gaps.next());
        Places(set.iter().filter_map(place).map(|place| place as u32).collect())
    }

    /// The blocks, by their number in the list, of which a row is written when the tokens of `set` go to `places`, and when those that `moved`, by their number in
    /// `set`, get other keys.
    pub(super) fn written(
        &self,
        set: &[u32],
        places: &Places,
        moved: &[usize],
        block_size: usize,
    ) -> BTreeSet<usize> {
        let goes = set
            .iter()
            .zip(&places.0)
            .filter(|(token, place)| self.place(**token as usize) != **place as usize);
        let goes = goes.map(|(_, place)| *place);
        goes.chain(moved.iter().map(|&i| places.0[i])).map(|place| place as usize / block_size).collect()
    }

    /// Lays the tokens out so.
    pub(super) fn lie(&mut self, places: Places) {
        let in_order = places.0.iter().enumerate().all(|(i, place)| i == *place as usize);
        self.places = if in_order { Vec::new() } else { places.0 };
    }
}

/// The lists as compressed rows: where each begins, and all of their blocks.
pub(super) fn block_rows(heads: &[HeadList]) -> (Vec<u32>, Vec<u32>) {
    let (mut indptr, mut blocks) = (vec![0u32], Vec::new());
    for head in heads {
        blocks.extend(&head.blocks);
        indptr.push(blocks.len() as u32);
    }
    (indptr, blocks)
}

/// An eighth more blocks than are needed: growing costs a copy, and what is not needed is still held.
fn with_room(blocks: usize) -> usize {
    blocks + blocks / 8
}

impl<E: TokenEngine> LayerBlocks<E> {
    pub(super) fn new(engine: &E, geometry: &TokenGeometry) -> Result<Self, Error> {
        let blocks = geometry.kv_heads;
        let make = |dim| {
            let shape = [blocks, geometry.block_size, 1, dim];
            engine.upload(&HostTensor::zeros(&shape, geometry.dtype)?)
        };
        let (k, v) = (make(geometry.head_dim_k)?, make(geometry.head_dim_v)?);
        Ok(Self { k, v, pool: BlockPool::new(blocks) })
    }

    /// Makes room for `more` blocks. Lists of this layer are renumbered with what comes back: the new number of each old block.
    pub(super) fn reserve(&mut self, engine: &E, more: usize) -> Result<Option<Vec<u32>>, Error> {
        if self.pool.free() >= more {
            return Ok(None);
        }
        self.resize(engine, with_room(self.pool.in_use() + more)).map(Some)
    }

    /// Gives back what is neither in use nor room for what comes next, when that is more than a third.
    pub(super) fn shrink(&mut self, engine: &E, least: usize) -> Result<Option<Vec<u32>>, Error> {
        let wanted = with_room(self.pool.in_use()).max(least);
        if self.pool.capacity().saturating_sub(wanted) <= self.pool.capacity() / 3 {
            return Ok(None);
        }
        self.resize(engine, wanted).map(Some)
    }

    fn resize(&mut self, engine: &E, capacity: usize) -> Result<Vec<u32>, Error> {
        let mut pool = self.pool.clone();
        let used = pool.resize(capacity)?;
        // Blocks that are not in use hold whatever block 0 does, until they are.
        let mut from = used.clone();
        from.resize(capacity, 0);
        let from = engine.upload_indices(&[capacity], &from)?;
        let (k, v) = engine.gather_pages_of_two((&self.k, &self.v), &from)?;
        let mut renumbered = vec![u32::MAX; self.pool.capacity()];
        for (new, &old) in used.iter().enumerate() {
            renumbered[old as usize] = new as u32;
        }
        *self = Self { k, v, pool };
        Ok(renumbered)
    }
}
