//! What a watched backend was asked for, and which call of it is to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tether_core::CoreError;

use super::Call;

/// Calls of one kind, and the bytes that they moved between the host and the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesMoved {
    /// Calls, failed ones among them.
    pub calls: u64,
    /// Bytes that travelled to the device: tensors, numbers of rows, tables, and lists of slots that come with a call.
    pub to_device: u64,
    /// Bytes that travelled to the host.
    pub to_host: u64,
}

impl BytesMoved {
    /// These and those of `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            to_device: self.to_device + other.to_device,
            to_host: self.to_host + other.to_host,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    moved: BTreeMap<Call, BytesMoved>,
    fallible: u64,
    /// Fallible calls that still go through before one fails.
    left: Option<u64>,
    failed: Option<Call>,
    waits_fail: bool,
}

/// The handle on a [`Faulty`](super::Faulty) backend, which a test keeps when a session owns the backend. Clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<State>>);

impl Watch {
    /// A handle that has seen nothing and lets everything through.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `calls` fallible calls through from now on; the next one fails, once. What is asked after that goes through again.
    pub fn fail_after(&self, calls: u64) {
        let mut state = self.state();
        (state.left, state.failed) = (Some(calls), None);
    }

    /// Lets everything through.
    pub fn disarm(&self) {
        self.state().left = None;
    }

    /// Whether [`Readback::wait`](tether_core::Readback::wait) is a call that can fail; at first it is not. A wait that fails has lost its results.
    pub fn let_waits_fail(&self, can: bool) {
        self.state().waits_fail = can;
    }

    /// The call that failed since [`Watch::fail_after`].
    pub fn failed(&self) -> Option<Call> {
        self.state().failed
    }

    /// Fallible calls so far: as many faults can be put into a run.
    pub fn fallible_calls(&self) -> u64 {
        self.state().fallible
    }

    /// What calls of one kind have moved.
    pub fn moved_by(&self, call: Call) -> BytesMoved {
        self.state().moved.get(&call).copied().unwrap_or_default()
    }

    /// What each kind of call has moved.
    pub fn moved_by_call(&self) -> BTreeMap<Call, BytesMoved> {
        self.state().moved.clone()
    }

    /// What all calls have moved together.
    pub fn moved(&self) -> BytesMoved {
        self.state().moved.values().copied().fold(BytesMoved::default(), BytesMoved::and)
    }

    /// How often somebody waited for the device.
    pub fn waits(&self) -> u64 {
        let state = self.state();
        state.moved.iter().filter(|(call, _)| call.waits()).map(|(_, moved)| moved.calls).sum()
    }

    /// Forgets all counts. Whether and when a call fails stays as it is.
    pub fn reset_counts(&self) {
        let mut state = self.state();
        state.moved.clear();
        state.fallible = 0;
    }

    /// Counts a call, and makes it fail when it is the one. Bytes count when it goes through.
    pub(super) fn enter(&self, engine: &'static str, call: Call, bytes: Bytes) -> Result<(), CoreError> {
        let mut state = self.state();
        let fallible = call != Call::Wait || state.waits_fail;
        if fallible {
            state.fallible += 1;
            match state.left {
                Some(0) => {
                    (state.left, state.failed) = (None, Some(call));
                    state.moved.entry(call).or_default().calls += 1;
                    let message = format!("{call:?} was made to fail");
                    return Err(CoreError::Device { engine, message });
                }
                Some(left) => state.left = Some(left - 1),
                None => {}
            }
        }
        let moved = state.moved.entry(call).or_default();
        let (to_device, to_host) = match bytes {
            Bytes::None => (0, 0),
            Bytes::ToDevice(bytes) => (bytes, 0),
            Bytes::ToHost(bytes) => (0, bytes),
        };
        *moved = moved.and(BytesMoved { calls: 1, to_device, to_host });
        Ok(())
    }

    /// Adds what a call that went through has brought to the host.
    pub(super) fn arrived(&self, call: Call, bytes: u64) {
        self.state().moved.entry(call).or_default().to_host += bytes;
    }

    // A test that panics elsewhere does not spoil the counts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one call moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bytes {
    None,
    ToDevice(u64),
    ToHost(u64),
}
