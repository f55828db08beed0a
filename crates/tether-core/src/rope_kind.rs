//! Which rotary position embedding a model uses, as data. `tether-rope` turns it into tables.

use serde::{Deserialize, Serialize};

/// Which channels of a head form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Channels `2i` and `2i + 1` (Wan, GPT-J).
    Interleaved,
    /// Channels `i` and `i + head_dim / 2` (Llama).
    Half,
}

impl Pairing {
    /// The two channels of pair `pair` of `pairs`.
    pub fn channels(self, pair: usize, pairs: usize) -> (usize, usize) {
        match self {
            Self::Half => (pair, pair + pairs),
            Self::Interleaved => (2 * pair, 2 * pair + 1),
        }
    }
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RopeKind {
    /// Keys carry no position.
    None,
    /// One axis: the unit's position.
    #[serde(rename = "1d")]
    OneD {
        /// Base of the frequencies.
        theta: f64,
        /// Channel pairing.
        pairing: Pairing,
    },
    /// Time, row and column, in the split of Wan 2.1: of `c = head_dim / 2` pairs, `c / 3` turn with the row, `c / 3` with the
    /// column, and the rest with time; interleaved.
    #[serde(rename = "3d")]
    ThreeD {
        /// Base of the frequencies of every axis.
        theta: f64,
        /// Token rows of a unit.
        height: usize,
        /// Token columns of a unit.
        width: usize,
    },
}
