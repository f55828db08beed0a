//! Edits of single tokens: what becomes of tokens that leave.

mod compensate;
mod edit_tokens;
mod merge;
mod merge_nearest;
mod merge_similar;
mod nearest;

use serde::{Deserialize, Serialize};

pub use compensate::{Compensate, Compensation};
pub use edit_tokens::{EditTokens, HeadEdit, TokenEditor};
pub use merge::{Merge, apply_merges};
pub use merge_nearest::MergeNearest;
pub use merge_similar::MergeSimilar;

/// A change of what is kept, as data. Token numbers are places before anything is evicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenEdit {
    /// Evicted tokens become part of kept ones.
    Merge(Merge),
    /// Values of evicted tokens become part of those of kept ones whose keys are most like theirs: which ones, keys
    /// and values say.
    MergeSimilar {
        /// The head.
        head: usize,
        /// How they merge.
        by: MergeSimilar,
    },
    /// One more token stands for all that leave a head.
    Compensate {
        /// The head.
        head: usize,
    },
}
