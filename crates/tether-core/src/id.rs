//! Identifiers: a slot is where a unit lies, a frame index is which unit it is, a position is what its keys are rotated by.

use serde::{Deserialize, Serialize};

/// Physical place of one unit in a store. Never a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u32);

impl SlotId {
    /// As an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Layer number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub u32);

impl LayerId {
    /// As an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<usize> for LayerId {
    fn from(layer: usize) -> Self {
        Self(u32::try_from(layer).unwrap_or(u32::MAX))
    }
}

/// Global index of a unit (frame, chunk, token) in its sequence, in order of generation, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitIndex(pub u64);

/// Number of a chunk (units that are generated together), from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkIndex(pub u64);
