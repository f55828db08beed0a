//! The window of one sequence in one layer: which slot stands at which logical place.

use std::ops::Range;

use smallvec::SmallVec;
use tether_core::{Member, MemoryPlan, Region, SlotId, UnitIndex};

use crate::{Archive, BlockPool, LayoutError, Regions};

/// Logical order `sink | memory | recent` over slots. Units never move: evicting, admitting and reordering edit this table only.
///
/// A chunk goes through [`Window::begin_chunk`], any number of overwrites of the same slots, and on the clean pass through
/// [`Window::settle`], [`Window::candidates`] and [`Window::admit`].
#[derive(Clone, Debug)]
pub struct Window {
    regions: Regions,
    /// Slots in logical order. In a bounded window that is not yet full these are the units so far.
    slots: Vec<SlotId>,
    /// What stands in `slots`; `None` for a slot that was never written.
    units: Vec<Option<UnitIndex>>,
    /// Units begun so far, the current chunk included.
    end: u64,
    /// True from the first clean pass on a full window: then memory has its labels.
    filled: bool,
    /// Units that left the recent region with the current chunk and wait for the clean pass.
    pending: SmallVec<[Member; 4]>,
    /// Evicted units that are still resident, those of memory included, oldest first; where the layout archives.
    archive: Vec<Member>,
}

impl Window {
    /// An empty window.
    pub fn new(regions: Regions) -> Self {
        Self {
            regions,
            slots: Vec::new(),
            units: Vec::new(),
            end: 0,
            filled: false,
            pending: SmallVec::new(),
            archive: Vec::new(),
        }
    }

    /// The sizes.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Slots to attend to, in logical order. Their positions are `0, 1, ..`.
    pub fn slots(&self) -> &[SlotId] {
        &self.slots
    }

    /// Units in logical order; `None` for a slot that was never written.
    pub fn units(&self) -> &[Option<UnitIndex>] {
        &self.units
    }

    /// Units begun so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Logical places of a region, as far as they are filled.
    pub fn region(&self, region: Region) -> Range<usize> {
        let len = self.slots.len();
        let (sink, memory) = (self.regions.sink.min(len), (self.regions.sink + self.regions.memory).min(len));
        match region {
            Region::Sink => 0..sink,
            Region::Memory => sink..memory,
            Region::Recent => memory..len,
        }
    }

    /// Slots of the current chunk, the last ones of the window.
    pub fn chunk_slots(&self) -> &[SlotId] {
        &self.slots[self.slots.len().saturating_sub(self.regions.chunk)..]
    }

    /// Units that wait for the clean pass.
    pub fn pending(&self) -> &[Member] {
        &self.pending
    }

    /// Units that were evicted and are still resident, oldest first.
    pub fn archive(&self) -> &[Member] {
        &self.archive
    }

    /// Unit in each memory slot, `None` where there is none. Before the first clean pass on a full window nothing is labelled.
    pub fn memory_units(&self) -> Vec<Option<UnitIndex>> {
        let memory = self.region(Region::Memory);
        let mut units = if self.filled { self.units[memory].to_vec() } else { Vec::new() };
        units.resize(self.regions.memory, None);
        units
    }

    /// Makes room for the next chunk and puts its units in the window: the first units of the recent region become pending (or leave,
    /// where there is no memory), the others keep their slots. Returns the units that left for good.
    ///
    /// # Errors
    /// [`LayoutError::OutOfSlots`] when `pool` has too few free slots; nothing has changed then.
    pub fn begin_chunk(&mut self, pool: &mut BlockPool) -> Result<SmallVec<[Member; 4]>, LayoutError> {
        let chunk = self.regions.chunk;
        let mut gone = SmallVec::new();
        match self.regions.capacity() {
            Some(capacity) if self.slots.len() + chunk > capacity => gone = self.evict(capacity, pool)?,
            _ => self.slots.extend(pool.allocate(chunk)?.into_iter().map(SlotId)),
        }
        self.units.truncate(self.slots.len() - chunk);
        self.units.extend((0..chunk as u64).map(|i| Some(UnitIndex(self.end + i))));
        self.end += chunk as u64;
        Ok(gone)
    }

    fn evict(&mut self, capacity: usize, pool: &mut BlockPool) -> Result<SmallVec<[Member; 4]>, LayoutError> {
        let chunk = self.regions.chunk;
        let recent = capacity - self.regions.memory - self.regions.sink;
        let first = self.regions.sink + self.regions.memory;
        // Only a window that is not whole chunks has places left here; they are attended to as zeros from now on.
        let unwritten = capacity - self.slots.len();
        let fresh = if self.regions.memory > 0 { chunk } else { 0 };
        // By the window's size and not by what stands there, which differs for such a window only.
        let label = self.end.saturating_sub(recent as u64);
        let (archive, mut gone) = self.next_archive(label);
        if pool.free() + gone.len() < unwritten + fresh {
            return Err(LayoutError::OutOfSlots {
                requested: unwritten + fresh,
                free: pool.free() + gone.len(),
            });
        }
        for member in &gone {
            pool.release(member.slot.0)?;
        }
        let mut new = pool.allocate(unwritten + fresh)?.into_iter().map(SlotId);
        self.units.resize(capacity, None);
        self.slots.extend(new.by_ref().take(unwritten));
        let evicted = self.slots.drain(first..first + chunk);
        let members = evicted.zip(label..).map(|(slot, unit)| Member { unit: UnitIndex(unit), slot });
        let members: SmallVec<[Member; 4]> = members.collect();
        self.units.drain(first..first + chunk);
        if self.regions.memory == 0 {
            // Nobody will ask for them again: the new chunk takes their slots.
            self.slots.extend(members.iter().map(|m| m.slot));
            gone = members;
        } else {
            self.slots.extend(new);
            if self.regions.archives() {
                self.archive = archive;
            } else {
                self.pending.extend(members);
            }
        }
        self.units.resize(capacity, None);
        Ok(gone)
    }

    /// The archive when the first units of the recent region, the first of which is `label`, have joined it; and whom it has no room for then: the
    /// oldest that are not in memory. The first ones to join find what has stood in memory since the window was filled.
    fn next_archive(&self, label: u64) -> (Vec<Member>, SmallVec<[Member; 4]>) {
        let mut gone = SmallVec::new();
        if !self.regions.archives() {
            return (Vec::new(), gone);
        }
        let memory = self.region(Region::Memory);
        let leaving = self.slots[memory.end..][..self.regions.chunk].iter().zip(label..);
        let mut archive = self.archive.clone();
        if archive.is_empty() {
            let units = self.units[memory.clone()].iter().flatten();
            archive.extend(
                self.slots[memory.clone()].iter().zip(units).map(|(&slot, &unit)| Member { unit, slot }),
            );
        }
        archive.extend(leaving.map(|(&slot, unit)| Member { unit: UnitIndex(unit), slot }));
        if let Archive::Newest(limit) = self.regions.archive {
            let mut left = archive.len().saturating_sub(limit);
            archive.retain(|member| {
                let goes = left > 0 && !self.slots[memory.clone()].contains(&member.slot);
                if goes {
                    left -= 1;
                    gone.push(*member);
                }
                !goes
            });
        }
        (archive, gone)
    }

    /// Fills the memory region with the archived units at `picks`, ascending. Does nothing to the archive.
    ///
    /// # Errors
    /// [`LayoutError::Selection`] unless `picks` are as many ascending indices as memory has places.
    pub fn recall(&mut self, picks: &[usize]) -> Result<(), LayoutError> {
        let candidates = self.archive.len();
        let ascending = picks.windows(2).all(|w| w[0] < w[1]) && picks.last().is_none_or(|&p| p < candidates);
        let memory = self.region(Region::Memory);
        if !ascending || picks.len() != memory.len() {
            return Err(LayoutError::Selection { limit: memory.len(), candidates });
        }
        for (place, &pick) in memory.zip(picks) {
            self.slots[place] = self.archive[pick].slot;
            self.units[place] = Some(self.archive[pick].unit);
        }
        Ok(())
    }

    /// To be called on every clean pass before admission: the first one on a full window labels what stands in memory.
    pub fn settle(&mut self) {
        if !self.filled && self.regions.capacity() == Some(self.slots.len()) {
            self.filled = true;
        }
    }

    /// Whom the clean pass has to choose among: memory members in order, then the pending units. Empty when there is nothing to do.
    pub fn candidates(&self) -> Vec<Member> {
        if !self.filled || self.pending.is_empty() {
            return Vec::new();
        }
        let memory = self.region(Region::Memory);
        let members = self.slots[memory.clone()].iter().zip(&self.units[memory]);
        let members = members.filter_map(|(&slot, &unit)| unit.map(|unit| Member { unit, slot }));
        members.chain(self.pending.iter().copied()).collect()
    }

    /// Puts the candidates at `keep` (ascending) into memory, in that order, and frees the slots of the others.
    ///
    /// # Errors
    /// [`LayoutError::Selection`] unless `keep` are as many ascending indices of candidates as memory has places; nothing has changed
    /// then.
    pub fn admit(&mut self, keep: &[usize], pool: &mut BlockPool) -> Result<MemoryPlan, LayoutError> {
        let candidates = self.candidates();
        let memory = self.region(Region::Memory);
        let ascending =
            keep.windows(2).all(|w| w[0] < w[1]) && keep.last().is_none_or(|&k| k < candidates.len());
        if candidates.is_empty() || !ascending || keep.len() != memory.len() {
            return Err(LayoutError::Selection { limit: memory.len(), candidates: candidates.len() });
        }
        let first_pending = candidates.len() - self.pending.len();
        let mut plan = MemoryPlan::default();
        let mut kept = keep.iter().peekable();
        for (i, &member) in candidates.iter().enumerate() {
            if kept.next_if(|&&k| k == i).is_some() {
                plan.keep.push(member);
                if i >= first_pending {
                    plan.admit.push(member);
                }
            } else {
                pool.release(member.slot.0)?;
                plan.drop.push(member);
            }
        }
        for (place, member) in memory.zip(&plan.keep) {
            self.slots[place] = member.slot;
            self.units[place] = Some(member.unit);
        }
        self.pending.clear();
        Ok(plan)
    }

    /// Slots that this window holds: what it attends to, what is pending and what is archived.
    pub fn resident(&self) -> Vec<SlotId> {
        let mut slots = self.slots.clone();
        slots.extend(self.pending.iter().chain(&self.archive).map(|m| m.slot));
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}
