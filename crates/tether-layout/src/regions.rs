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
                units_of(units).map(Extent::Units)
            }

            fn visit_i64<E: Error>(self, units: i64) -> Result<Extent, E> {
                let units = not_negative(units, &self)?;
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

/// Which evicted units stay resident: `true` for all, a number for that many, `false` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Archive {
    /// None.
    #[default]
    None,
    /// So many, those of memory included: the oldest one that is not in memory leaves first.
    Newest(usize),
    /// Every one. Not bounded: a control, not a cache.
    All,
}

impl Archive {
    /// True for none.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Serialize for Archive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::Newest(units) => units.serialize(serializer),
            Self::All => serializer.serialize_bool(true),
        }
    }
}

impl<'de> Deserialize<'de> for Archive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Archive;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of units, true or false")
            }

            fn visit_bool<E: Error>(self, all: bool) -> Result<Archive, E> {
                Ok(if all { Archive::All } else { Archive::None })
            }

            fn visit_u64<E: Error>(self, units: u64) -> Result<Archive, E> {
                units_of(units).map(Archive::Newest)
            }

            fn visit_i64<E: Error>(self, units: i64) -> Result<Archive, E> {
                let units = not_negative(units, &self)?;
                self.visit_u64(units)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

fn units_of<E: Error>(units: u64) -> Result<usize, E> {
    usize::try_from(units).map_err(|_| E::custom("a number of units that fits the address space"))
}

fn not_negative<E: Error>(units: i64, expected: &dyn serde::de::Expected) -> Result<u64, E> {
    u64::try_from(units).map_err(|_| E::invalid_value(Unexpected::Signed(units), expected))
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
    /// Evicted units that stay resident, and that memory is chosen from for each chunk.
    #[serde(default, skip_serializing_if = "Archive::is_none")]
    pub archive: Archive,
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
    pub(crate) archive: Archive,
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
            Extent::All if !archive.is_none() => return Err(LayoutError::Archive),
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
                if !archive.is_none() && (!whole || memory == 0) {
                    return Err(LayoutError::Archive);
                }
                if let Archive::Newest(archive) = archive {
                    if archive <= memory {
                        return Err(LayoutError::ArchiveBelowMemory { archive, memory });
                    }
                    if capacity.checked_add(archive).is_none_or(|n| n > u32::MAX as usize) {
                        return Err(LayoutError::Overflow { what: "sink + recent + archive" });
                    }
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

    /// True when evicted units stay resident, and memory is chosen among them.
    pub fn archives(&self) -> bool {
        !self.archive.is_none()
    }

    /// True when a sequence never needs more than [`Regions::initial_slots`].
    pub fn is_bounded(&self) -> bool {
        self.recent.is_some() && self.archive != Archive::All
    }

    /// Slots that one sequence needs to begin with. With memory, the units that just left the recent region stay where they are until
    /// the clean pass decides on them, hence one chunk more than the window; an archive holds the units of memory too.
    pub fn initial_slots(&self) -> usize {
        match (self.capacity(), self.archive) {
            (Some(capacity), Archive::Newest(archive)) => capacity - self.memory + archive,
            (Some(capacity), _) if self.memory > 0 => capacity + self.chunk,
            (Some(capacity), _) => capacity,
            (None, _) => self.chunk,
        }
    }
}
