//! The pool of slots of one layer.

use tether_core::SlotId;

use crate::LayoutError;

/// Which slots of a store are in use. The lowest free slot is handed out first, so that a run is reproducible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPool {
    used: Vec<bool>,
    free: usize,
}

impl SlotPool {
    /// A pool of `slots` free slots.
    pub fn new(slots: usize) -> Self {
        Self { used: vec![false; slots], free: slots }
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.used.len()
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Slots that are in use.
    pub fn in_use(&self) -> usize {
        self.used.len() - self.free
    }

    /// Adds free slots at the end; never shrinks.
    pub fn grow(&mut self, slots: usize) {
        let more = slots.saturating_sub(self.used.len());
        self.used.resize(self.used.len() + more, false);
        self.free += more;
    }

    /// Takes `count` slots, all or none.
    ///
    /// # Errors
    /// [`LayoutError::OutOfSlots`].
    pub fn allocate(&mut self, count: usize) -> Result<Vec<SlotId>, LayoutError> {
        if count > self.free {
            return Err(LayoutError::OutOfSlots { requested: count, free: self.free });
        }
        let used = self.used.iter_mut().enumerate().filter(|(_, used)| !**used).take(count);
        let slots = used
            .map(|(slot, used)| {
                *used = true;
                SlotId(slot as u32)
            })
            .collect();
        self.free -= count;
        Ok(slots)
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// [`LayoutError::NotInUse`] when it is free already or not of this pool.
    pub fn release(&mut self, slot: SlotId) -> Result<(), LayoutError> {
        match self.used.get_mut(slot.index()) {
            Some(used) if *used => {
                *used = false;
                self.free += 1;
                Ok(())
            }
            _ => Err(LayoutError::NotInUse { slot }),
        }
    }
}
