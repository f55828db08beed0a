//! What a step did.

use std::time::Duration;

use serde::Serialize;
use tether_core::{CommitPlan, Member};

/// Bytes of a cache, over all layers and sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheBytes {
    /// Allocated: every slot of every store, used or not, and the moments; of stores that hold codes, the codes. What follows is counted as numbers of
    /// the geometry's type.
    pub resident: u64,
    /// Keys of the windows, rotated, beside what is resident: what passes over the same window share.
    pub rotated: u64,
    /// K and V of the slots in use: the window, units that wait for a clean pass, and an archive.
    pub in_use: u64,
    /// K and V that one pass attends to.
    pub window: u64,
    /// K and V of every unit generated so far, which an unbounded cache would hold.
    pub full_history: u64,
}

/// What [`KvCache::stage`](crate::KvCache::stage) did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageReport {
    /// True when this pass began a new chunk.
    pub began_chunk: bool,
    /// Units that left the cache for good, per sequence.
    pub evicted: Vec<Vec<Member>>,
    /// Bytes of their slots, free or already taken by the new chunk.
    pub bytes_freed: u64,
}

/// What [`KvCache::commit`](crate::KvCache::commit) did to a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The decision that was applied: who stays, who was admitted, who left, what was edited.
    pub plan: CommitPlan,
    /// K and V bytes rewritten in place by edits.
    pub bytes_edited: u64,
    /// K and V bytes that the engine wrote or copied otherwise, by its own count. Units stay in their slots, so this should be 0.
    pub bytes_moved: u64,
    /// Bytes of the slots that became free.
    pub bytes_freed: u64,
    /// Time spent on scores, decisions and tables on the host, without waiting for the device.
    pub planning: Duration,
}
