//! Sizes of a window's regions, validated.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::LayoutError;

/// Size of the recent region: a number, or `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many units, the current chunk included.
    Units(usize),
    /// Every unit.
    All,
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Units(units) => units.serialize(serializer),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Extent;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of units, or \"all\"")
            }

            fn visit_u64<E: Error>(self, units: u64) -> Result<Extent, E> {
                let units = usize::try_from(units);
                units
                    .map(Extent::Units)
                    .map_err(|_| E::custom("a number of units that fits the address space"))
            }

            fn visit_i64<E: Error>(self, units: i64) -> Result<Extent, E> {
                let units =
                    u64::try_from(units).map_err(|_| E::invalid_value(Unexpected::Signed(units), &self))?;
                self.visit_u64(units)
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Extent, E> {
                if word == "all" {
                    Ok(Extent::All)
                } else {
                    Err(E::invalid_value(Unexpected::Str(word), &self))
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
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
            Extent::All if sink > 0 || memory > 0 => {
                return Err(LayoutError::UnboundedWithMemory { sink, memory });
            }
            Extent::All if archive => return Err(LayoutError::Archive),
            Extent::All => None,
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
                if !whole && sink + memory + 1 < chunk {
                    return Err(LayoutError::OfficialLabels { sink, memory, chunk });
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
