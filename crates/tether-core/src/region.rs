//! The parts of a bounded window.

use serde::{Deserialize, Serialize};

/// A part of the window, in logical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// The first units ever generated: never moved, edited or evicted.
    Sink,
    /// Old units that a policy recalled.
    Memory,
    /// The last units, the current chunk included.
    Recent,
}
