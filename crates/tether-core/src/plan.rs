//! Plans: what a policy wants done, as plain data. An engine applies them.

use serde::{Deserialize, Serialize};

use crate::{ChunkIndex, LayerId, SlotId, UnitIndex};

/// A unit and the slot it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Which unit.
    pub unit: UnitIndex,
    /// Where it lies.
    pub slot: SlotId,
}

/// Units whose statistics are aligned together, and whom to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlignJob {
    /// Slots edited in place. Their own statistics are pooled over all of them.
    pub slots: Vec<SlotId>,
    /// Slots whose pooled statistics are the target. They are read as they were before any job of the same plan.
    pub trusted: Vec<SlotId>,
}

/// An edit of stored bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Edit {
    /// Statistics alignment of keys and values (TAME).
    Align {
        /// Strength, 0 to 1.
        tau: f32,
        /// Independent alignments.
        jobs: Vec<AlignJob>,
    },
}

/// What happens to one sequence's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Memory members after the plan, oldest first: survivors and admissions.
    pub keep: Vec<Member>,
    /// The part of `keep` that was not in memory before.
    pub admit: Vec<Member>,
    /// Candidates that leave the cache; their slots are free.
    pub drop: Vec<Member>,
    /// Scores of the candidates (survivors before, then evicted units), empty when nothing had to be scored.
    pub scores: Vec<f32>,
}

/// Whom a recall has put into one sequence's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecalledUnits {
    /// Memory members from now on, oldest first.
    pub members: Vec<Member>,
    /// Scores of all units of the archive, oldest first.
    pub scores: Vec<f32>,
}

/// What a recall does to one layer: tables change, and no byte of keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecallPlan {
    /// The layer.
    pub layer: LayerId,
    /// The chunk whose queries asked.
    pub chunk: ChunkIndex,
    /// One entry per sequence; empty where nothing was to be chosen.
    pub memory: Vec<RecalledUnits>,
}

/// What a commit does to one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitPlan {
    /// The layer.
    pub layer: LayerId,
    /// The chunk whose clean pass this is.
    pub chunk: ChunkIndex,
    /// One entry per sequence that admits; empty while the cache is filling.
    pub memory: Vec<MemoryPlan>,
    /// Edits, in order.
    pub edits: Vec<Edit>,
}
