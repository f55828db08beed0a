//! How many bytes an engine moves, and what for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that an engine has moved since it was made, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// K and V written from the caller's tensors.
    pub written: u64,
    /// K and V rewritten in place by edits.
    pub edited: u64,
    /// K and V copied out by [`Engine::gather`](crate::Engine::gather).
    pub gathered: u64,
    /// K and V copied because a store had to grow.
    pub grown: u64,
    /// Keys that were rotated to be attended to.
    pub rotated: u64,
    /// Bytes that travelled from the device to the host.
    pub read_back: u64,
}

impl Traffic {
    /// What was moved since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            written: self.written - earlier.written,
            edited: self.edited - earlier.edited,
            gathered: self.gathered - earlier.gathered,
            grown: self.grown - earlier.grown,
            rotated: self.rotated - earlier.rotated,
            read_back: self.read_back - earlier.read_back,
        }
    }
}

/// An engine's running counts; see [`Traffic`].
#[derive(Debug, Default)]
pub struct TrafficCounters {
    written: AtomicU64,
    edited: AtomicU64,
    gathered: AtomicU64,
    grown: AtomicU64,
    rotated: AtomicU64,
    read_back: AtomicU64,
}

impl TrafficCounters {
    /// Adds what one call moved.
    pub fn add(&self, moved: Traffic) {
        for (counter, bytes) in [
            (&self.written, moved.written),
            (&self.edited, moved.edited),
            (&self.gathered, moved.gathered),
            (&self.grown, moved.grown),
            (&self.rotated, moved.rotated),
            (&self.read_back, moved.read_back),
        ] {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The counts so far.
    pub fn snapshot(&self) -> Traffic {
        Traffic {
            written: self.written.load(Ordering::Relaxed),
            edited: self.edited.load(Ordering::Relaxed),
            gathered: self.gathered.load(Ordering::Relaxed),
            grown: self.grown.load(Ordering::Relaxed),
            rotated: self.rotated.load(Ordering::Relaxed),
            read_back: self.read_back.load(Ordering::Relaxed),
        }
    }
}
