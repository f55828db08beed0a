//! The part that most adaptive policies share: an error that adds up until it is too much.

use crate::Verdict;

/// Adds changes up while steps are reused.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Accumulator(f64);

impl Accumulator {
    /// Reuse while the sum stays strictly below `threshold`; the step that would reach it is computed, and the sum begins anew.
    pub(super) fn decide(&mut self, change: f64, threshold: f64) -> Verdict {
        let sum = self.0 + change;
        // False for what is not a number.
        if sum < threshold {
            self.0 = sum;
            return Verdict::HOLD;
        }
        self.clear();
        Verdict::Compute
    }

    pub(super) fn clear(&mut self) {
        self.0 = 0.0;
    }
}
