//! What a recipe must be given beside keys and values.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

/// Something that a recipe must be given beside keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Requirement {
    /// Queries of a chunk's clean pass.
    CleanQueries,
    /// Queries of a chunk before it attends.
    ChunkQueries,
    /// An engine whose stores hold codes.
    StoredCodes,
    /// The last so many queries, rotated; none for all of them.
    Queries {
        /// How many.
        last: Option<usize>,
    },
    /// Queries before the rotation, the last so many; none for all of them.
    RawQueries {
        /// How many.
        last: Option<usize>,
    },
    /// The attention that each key has had from all queries.
    AttentionSums,
    /// Queries and keys of probe tokens, which are run after the text and forgotten: so many of its first tokens again, then of its last ones.
    Probes {
        /// Of the first ones.
        first: usize,
        /// Of the last ones.
        last: usize,
    },
    /// Frame, row and column of visual tokens.
    Grid,
    /// The model's rotation, of one axis of positions.
    Rotation,
    /// Each layer's output projection.
    OutputProjection,
    /// Which heads are of which kind.
    HeadProfile {
        /// With the variance of what a key receives.
        variances: bool,
    },
}

impl Requirement {
    /// True for what is known of a model before it has read anything, and so is asked for when a session is made. The rest comes with the
    /// tokens, or a session sees to it.
    pub fn is_of_model(self) -> bool {
        matches!(self, Self::StoredCodes | Self::Rotation | Self::OutputProjection | Self::HeadProfile { .. })
    }
}

impl Display for Requirement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let queries = |f: &mut Formatter<'_>, last: &Option<usize>| match last {
            None => f.write_str("all queries"),
            Some(1) => f.write_str("the last query"),
            Some(last) => write!(f, "the last {last} queries"),
        };
        match self {
            Self::CleanQueries => f.write_str("queries of the clean pass"),
            Self::ChunkQueries => f.write_str("a chunk's queries before it attends"),
            Self::StoredCodes => f.write_str("an engine whose stores hold codes"),
            Self::Queries { last } => queries(f, last),
            Self::RawQueries { last } => {
                queries(f, last)?;
                f.write_str(" before the rotation")
            }
            Self::AttentionSums => f.write_str("attention of all queries"),
            Self::Probes { first, last } => write!(f, "{} probe tokens", first + last),
            Self::Grid => f.write_str("the grid of visual tokens"),
            Self::Rotation => f.write_str("the rotation"),
            Self::OutputProjection => f.write_str("the output projections"),
            Self::HeadProfile { variances: false } => f.write_str("a head profile"),
            Self::HeadProfile { variances: true } => f.write_str("a head profile with variances"),
        }
    }
}

/// Requirements in words: `nothing`, or one after the other.
pub(crate) fn list(requirements: &[Requirement]) -> String {
    if requirements.is_empty() {
        return "nothing".to_owned();
    }
    requirements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
