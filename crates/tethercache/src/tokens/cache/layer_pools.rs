//! The memory of one layer: pages of keys and values, and which of them are in use.

use tether_core::{CoreError, DType, HostTensor, TokenEngine};
use tether_layout::BlockPool;

use super::TokenGeometry;
use super::head_pages::HeadPages;
use super::page_regions::PageRegions;
use super::summaries::{PageSummaries, Wanted};
use crate::Error;

/// Pools `[blocks, block_size, 1, head_dim]` of keys and of values, and which of their pages are in use.
#[derive(Debug)]
pub(super) struct LayerPools<E: TokenEngine> {
    pub k: E::Tensor,
    pub v: E::Tensor,
    /// Attention that the token of each row got so far from each query head of the group, `f32` `[blocks, block_size, 1, group]`, where the recipe adds it up.
    pub sums: Option<E::Tensor>,
    /// The position of each row, an `i32`'s bits, `f32` words `[blocks, block_size, 1]`, where attention asks for it.
    pub positions: Option<E::Tensor>,
    /// What is told of full pages, where the recipe asks for it.
    pub summaries: PageSummaries<E::Tensor>,
    pub pool: BlockPool,
    pub regions: PageRegions<E>,
}

/// An eighth more pages than are needed: growing costs a copy, and what is not needed is still held.
fn with_room(blocks: usize) -> usize {
    blocks + blocks / 8
}

/// A pool's pages, of which many are free, as they are once the others have moved together.
#[derive(Debug)]
pub(super) struct Shrunk {
    pool: BlockPool,
    /// Which page each page was.
    from: Vec<u32>,
    /// Which page each page is.
    renumbered: Vec<u32>,
}

impl Shrunk {
    /// Where more than a third of the pages is neither in use nor room for what comes next.
    pub(super) fn of(pool: &BlockPool, least: usize) -> Option<Self> {
        let wanted = with_room(pool.in_use()).max(least);
        if pool.capacity().saturating_sub(wanted) <= pool.capacity() / 3 {
            return None;
        }
        let mut shrunk = pool.clone();
        let mut from = shrunk.resize(wanted).ok()?;
        let mut renumbered = vec![u32::MAX; pool.capacity()];
        from.iter().zip(0..).for_each(|(&old, new)| renumbered[old as usize] = new);
        from.resize(wanted, 0);
        Some(Self { pool: shrunk, from, renumbered })
    }
}

impl<E: TokenEngine> LayerPools<E> {
    pub(super) fn new(
        engine: &E,
        geometry: &TokenGeometry,
        (sums, positions, wanted): (bool, bool, Wanted),
    ) -> Result<Self, Error> {
        let blocks = geometry.kv_heads;
        let make_rows = |shape: &[usize], dtype| engine.upload(&HostTensor::zeros(shape, dtype)?);
        let make = |dim, dtype| make_rows(&[blocks, geometry.block_size, 1, dim], dtype);
        Ok(Self {
            k: make(geometry.head_dim_k, geometry.dtype)?,
            v: make(geometry.head_dim_v, geometry.dtype)?,
            sums: sums.then(|| make(geometry.group(), DType::F32)).transpose()?,
            positions: positions
                .then(|| make_rows(&[blocks, geometry.block_size, 1], DType::F32))
                .transpose()?,
            summaries: PageSummaries::new(engine, geometry, (blocks, wanted))?,
            pool: BlockPool::new(blocks),
            regions: PageRegions::new(engine, blocks)?,
        })
    }

    /// Gives up what lists refer to that nobody reads any more.
    pub(super) fn forget(&mut self, lists: Vec<HeadPages>) -> Result<(), Error> {
        for list in lists {
            for page in list.blocks {
                self.pool.release(page)?;
            }
            self.regions.put_back(list.region);
        }
        Ok(())
    }

    /// Makes room for `more` pages. Those that are in use keep their numbers.
    pub(super) fn reserve(&mut self, engine: &E, more: usize) -> Result<(), Error> {
        if self.pool.free() >= more {
            return Ok(());
        }
        let (capacity, now) = (with_room(self.pool.in_use() + more), self.pool.capacity());
        // Pages that are not in use hold whatever page 0 does, until they are.
        let from: Vec<u32> = (0..capacity).map(|page| if page < now { page as u32 } else { 0 }).collect();
        self.copy_pools(engine, &from)?;
        self.pool.grow(capacity);
        Ok(())
    }

    /// Gives back what is neither in use nor room for what comes next. Returns the new number of each page; lists have no part of the page table then.
    pub(super) fn shrink(&mut self, engine: &E, shrunk: Shrunk) -> Result<Vec<u32>, Error> {
        let Shrunk { pool, from, renumbered } = shrunk;
        // Pages that the table names are not there any more.
        let regions = PageRegions::new(engine, from.len())?;
        self.copy_pools(engine, &from)?;
        (self.regions, self.pool) = (regions, pool);
        Ok(renumbered)
    }

    /// Pools whose page `i` is page `from[i]` of these.
    fn copy_pools(&mut self, engine: &E, from: &[u32]) -> Result<(), CoreError> {
        let from = engine.upload_indices(&[from.len()], from)?;
        let (k, v) = engine.gather_pages_of_two((&self.k, &self.v), &from)?;
        let other =
            |pool: &Option<E::Tensor>| pool.as_ref().map(|p| engine.gather_pages(p, &from)).transpose();
        let summaries = self.summaries.copied(engine, &from)?;
        (self.sums, self.positions) = (other(&self.sums)?, other(&self.positions)?);
        self.summaries = summaries;
        (self.k, self.v) = (k, v);
        Ok(())
    }

    /// The rows `[rows]` of all pools, next to each other.
    pub(super) fn read_rows(&self, engine: &E, rows: &E::Indices) -> Result<PoolRows<E>, CoreError> {
        Ok(PoolRows {
            k: engine.read_rows(&self.k, rows)?,
            v: engine.read_rows(&self.v, rows)?,
            sums: self.sums.as_ref().map(|sums| engine.read_rows(sums, rows)).transpose()?,
            positions: self.positions.as_ref().map(|p| engine.read_rows(p, rows)).transpose()?,
        })
    }

    /// Writes rows to rows `to` of all pools, or to none of them.
    pub(super) fn write_rows(
        &mut self,
        engine: &E,
        to: &E::Indices,
        from: &PoolRows<E>,
    ) -> Result<(), CoreError> {
        let mut writes = vec![(&mut self.k, &from.k), (&mut self.v, &from.v)];
        writes.extend(self.sums.as_mut().zip(from.sums.as_ref()));
        writes.extend(self.positions.as_mut().zip(from.positions.as_ref()));
        engine.write_rows_together(&mut writes, to)
    }

    /// Copies rows of all pools to other rows of them.
    pub(super) fn copy_rows(&mut self, engine: &E, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        if from.is_empty() {
            return Ok(());
        }
        let rows = self.read_rows(engine, &engine.upload_indices(&[from.len()], from)?)?;
        self.write_rows(engine, &engine.upload_indices(&[to.len()], to)?, &rows)
    }
}

/// Rows of the pools of a layer.
#[derive(Debug)]
pub(super) struct PoolRows<E: TokenEngine> {
    pub k: E::Tensor,
    pub v: E::Tensor,
    pub sums: Option<E::Tensor>,
    pub positions: Option<E::Tensor>,
}
