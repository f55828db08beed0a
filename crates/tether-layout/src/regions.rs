//! Sizes of a window's regions, validated.

use serde::{Deserialize, Serialize};

use crate::LayoutError;

/// Size of the recent region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Extent {
    /// So many units, the current chunk included.
    Units(usize),
    /// Everything.
    All(All),
}

/// The word `"all"` in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// Every unit.
    All,
}

/// Region sizes in units, as a recipe states them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSpec {
    /// First units, kept for ever.
    #[serde(default)]
    pub sink: usize,
    /// Recalled old units.
    #[serde(default)]
    pub memory: usize,
    /// Last units, the current chunk included.
    pub recent: Extent,
    /// Keep every evicted unit resident, and choose memory among all of them before each chunk. Not bounded: a control, not a cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archive: bool,
}

/// What a window that is not whole chunks means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// An error.
    #[default]
    WholeChunks,
    /// What the published TetherCache code does: slots that were never written are attended to as zeros once the window is full, and
    /// the first evicted units are labelled by the window's size.
    Official,
}

/// Validated region sizes of a window that advances by `chunk` units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    pub(crate) sink: usize,
    pub(crate) memory: usize,
    pub(crate) recent: Option<usize>,
    pub(crate) archive: bool,
    pub(crate) chunk: usize,
}

impl Regions {
    /// Validates `spec` for chunks of `chunk` units.
    ///
    /// # Errors
    /// Every [`LayoutError`] that concerns sizes.
    pub fn try_new(spec: &RegionSpec, chunk: usize, rounding: Rounding) -> Result<Self, LayoutError> {
        let &RegionSpec { sink, memory, recent, archive } = spec;
        let recent = match recent {
            Extent::All(All::All) if sink > 0 || memory > 0 || archive => {
                return Err(LayoutError::UnboundedWithMemory { sink, memory });
            }
            Extent::All(All::All) => None,
            Extent::Units(recent) => {
                if recent < chunk.max(1) {
                    return Err(LayoutError::RecentBelowChunk { recent, chunk });
                }
                let capacity = sink
                    .checked_add(memory)
                    .and_then(|n| n.checked_add(recent))
                    .filter(|&n| n.checked_add(chunk).is_some_and(|n| n <= u32::MAX as usize))
                    .ok_or(LayoutError::Overflow { what: "sink + memory + recent" })?;
                let whole = capacity.is_multiple_of(chunk);
                if !whole && rounding == Rounding::WholeChunks {
                    return Err(LayoutError::CapacityNotMultiple { capacity, chunk });
                }
                if archive && (!whole || memory == 0) {
                    return Err(LayoutError::Archive);
                }
                Some(recent)
            }
        };
        Ok(Self { sink, memory, recent, archive, chunk })
    }

    /// Units of the sink.
    pub fn sink(&self) -> usize {
        self.sink
    }

    /// Units of memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Units of the recent region; `None` when it is everything.
    pub fn recent(&self) -> Option<usize> {
        self.recent
    }

    /// Units of the window; `None` when it is unbounded.
    pub fn capacity(&self) -> Option<usize> {
        self.recent.map(|recent| self.sink + self.memory + recent)
    }

    /// Units that a pass writes.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// True when every evicted unit stays resident.
    pub fn archives(&self) -> bool {
        self.archive
    }

    /// Slots that one sequence needs to begin with. With memory, the units that just left the recent region stay where they are until
    /// the clean pass decides on them, hence one chunk more than the window.
    pub fn initial_slots(&self) -> usize {
        match self.capacity() {
            Some(capacity) if self.memory > 0 => capacity + self.chunk,
            Some(capacity) => capacity,
            None => self.chunk,
        }
    }
}
