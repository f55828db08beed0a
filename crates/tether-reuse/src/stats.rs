//! What a run did.

use serde::{Deserialize, Serialize};

/// Counts of a run or of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReuseStats {
    /// Decisions that led to a computation, forced ones included.
    pub computed: u64,
    /// Decisions that led to a reuse.
    pub reused: u64,
    /// Computations that no policy was asked for: nothing was cached, or a shape had changed.
    pub forced: u64,
    /// Computations because a signal was not a number.
    pub not_numbers: u64,
    /// Numbers that were measured.
    pub signals: u64,
    /// Signals by size: entry `i` counts those whose rounded binary logarithm is `i - 16`, smaller and larger ones at the ends.
    pub histogram: [u64; 24],
    /// Most bytes that the cache held.
    pub peak_bytes: u64,
}

impl ReuseStats {
    /// Part of the decisions that led to a reuse.
    pub fn share(&self) -> f64 {
        let all = self.computed + self.reused;
        if all == 0 { 0.0 } else { self.reused as f64 / all as f64 }
    }

    pub(crate) fn count_signals(&mut self, signals: &[f64]) {
        self.signals += signals.len() as u64;
        for x in signals.iter().filter(|x| x.is_finite()) {
            let place = x.abs().log2().round().clamp(-16.0, 7.0) + 16.0;
            self.histogram[place as usize] += 1;
        }
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.computed += other.computed;
        self.reused += other.reused;
        self.forced += other.forced;
        self.not_numbers += other.not_numbers;
        self.signals += other.signals;
        for (a, b) in self.histogram.iter_mut().zip(&other.histogram) {
            *a += b;
        }
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }
}
