//! The blocks of one layer, counted by who refers to them.

use crate::LayoutError;

/// Which blocks of a pool are in use, and by how many lists. Sequences that share a prefix refer to the same blocks; whoever is to write to a
/// block that others refer to takes one of its own first. The lowest free block is handed out first, so that a run is reproducible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockPool {
    references: Vec<u32>,
    free: usize,
    /// No block before this one is free, so that taking one does not look through all that are in use.
    first_free: usize,
}

impl BlockPool {
    /// A pool of `blocks` free blocks.
    pub fn new(blocks: usize) -> Self {
        Self { references: vec![0; blocks], free: blocks, first_free: 0 }
    }

    /// Blocks in all.
    pub fn capacity(&self) -> usize {
        self.references.len()
    }

    /// Blocks that nobody refers to.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Blocks that somebody refers to.
    pub fn in_use(&self) -> usize {
        self.references.len() - self.free
    }

    /// Lists that refer to a block; 0 for one that is not there.
    pub fn references(&self, block: u32) -> u32 {
        self.references.get(block as usize).copied().unwrap_or(0)
    }

    /// Takes `count` blocks, all or none; each has one reference then.
    ///
    /// # Errors
    /// [`LayoutError::OutOfSlots`].
    pub fn allocate(&mut self, count: usize) -> Result<Vec<u32>, LayoutError> {
        if count > self.free {
            return Err(LayoutError::OutOfSlots { requested: count, free: self.free });
        }
        let mut blocks = Vec::with_capacity(count);
        while blocks.len() < count && self.first_free < self.references.len() {
            if self.references[self.first_free] == 0 {
                self.references[self.first_free] = 1;
                blocks.push(self.first_free as u32);
            }
            self.first_free += 1;
        }
        self.free -= count;
        Ok(blocks)
    }

    /// One more list refers to a block.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchBlock`] for one that is free or not there.
    pub fn share(&mut self, block: u32) -> Result<(), LayoutError> {
        match self.references.get_mut(block as usize) {
            Some(n) if *n > 0 => *n += 1,
            _ => return Err(LayoutError::NoSuchBlock { block }),
        }
        Ok(())
    }

    /// One list less refers to a block; true when it is free then.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchBlock`] for one that is free already or not there.
    pub fn release(&mut self, block: u32) -> Result<bool, LayoutError> {
        match self.references.get_mut(block as usize) {
            Some(n) if *n > 0 => {
                *n -= 1;
                let is_free = *n == 0;
                if is_free {
                    self.free += 1;
                    self.first_free = self.first_free.min(block as usize);
                }
                Ok(is_free)
            }
            _ => Err(LayoutError::NoSuchBlock { block }),
        }
    }

    /// Moves all blocks in use to the front of a pool of `capacity` blocks, in order. Returns for each block of the new pool, as far as it is in
    /// use, which one it was: what to copy, and how lists are renumbered.
    ///
    /// # Errors
    /// [`LayoutError::OutOfSlots`] when `capacity` is too small.
    pub fn resize(&mut self, capacity: usize) -> Result<Vec<u32>, LayoutError> {
        if capacity < self.in_use() {
            return Err(LayoutError::OutOfSlots { requested: self.in_use(), free: capacity });
        }
        let used: Vec<u32> =
            (0..self.references.len() as u32).filter(|&b| self.references[b as usize] > 0).collect();
        let mut references: Vec<u32> = used.iter().map(|&b| self.references[b as usize]).collect();
        references.resize(capacity, 0);
        *self = Self { references, free: capacity - used.len(), first_free: used.len() };
        Ok(used)
    }

    /// Adds free blocks up to `capacity` in all; the blocks that there are keep their numbers.
    pub fn grow(&mut self, capacity: usize) {
        let more = capacity.saturating_sub(self.references.len());
        self.references.resize(self.references.len() + more, 0);
        self.free += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_who_refers_to_a_block() {
        let mut pool = BlockPool::new(3);
        assert_eq!(pool.allocate(2), Ok(vec![0, 1]));
        assert_eq!(pool.allocate(2), Err(LayoutError::OutOfSlots { requested: 2, free: 1 }));
        pool.share(1).expect("block 1 is in use");
        assert_eq!((pool.release(1), pool.release(1)), (Ok(false), Ok(true)));
        assert_eq!(pool.release(1), Err(LayoutError::NoSuchBlock { block: 1 }));
        assert_eq!(pool.share(7), Err(LayoutError::NoSuchBlock { block: 7 }));
        assert_eq!((pool.in_use(), pool.free()), (1, 2));
    }

    #[test]
    fn resizes_without_losing_references() {
        let mut pool = BlockPool::new(4);
        let blocks = pool.allocate(4).expect("four are free");
        pool.share(blocks[3]).expect("in use");
        for block in [0, 2] {
            pool.release(block).expect("in use");
        }
        assert_eq!(pool.resize(1), Err(LayoutError::OutOfSlots { requested: 2, free: 1 }));
        assert_eq!(pool.resize(5), Ok(vec![1, 3]));
        assert_eq!((pool.references(0), pool.references(1), pool.references(2)), (1, 2, 0));
        assert_eq!((pool.capacity(), pool.free()), (5, 3));
    }
}
