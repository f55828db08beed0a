//! The same token operations for every engine, against `f64` oracles: the head sizes that models have and small ones, grouped heads, both
//! memory orders, nothing at all, and calls that make no sense.
//!
//! A case takes the storage type where it matters and runs over its own table of shapes; it returns what the engine refuses and panics when a
//! result is wrong.

mod decode;
mod extend;
mod gather;
mod leaves;
mod options;
mod page_choice;
mod rotate;
mod rows;
mod score_ops;
mod segments;
mod similar;
mod sums;
mod top_k;
mod window;

pub(crate) use decode::{DECODE_SHAPES, PagedTokens};
pub use decode::{attends_over_pages, merges_partial_results, refuses_pages_that_do_not_fit};
pub use extend::{extends_what_is_cached, refuses_blocks_that_do_not_fit};
pub use gather::{gathers_pages, gathers_rows, refuses_rows_and_pages_that_are_not_there};
pub use leaves::{observes_leaves, tells_rows};
pub use options::{attends_with_options, refuses_options_that_do_not_fit};
pub use page_choice::{chooses_pages, writes_page_bounds};
pub use rotate::{refuses_rotations_that_do_not_fit, rotates_by_positions, undoes_rotations};
pub use rows::{reads_and_writes_rows, refuses_rows_that_are_not_there};
pub use score_ops::works_with_scores;
pub use segments::{attends_to_stand_ins, averages_rows};
pub use similar::joins_similar_rows;
pub use sums::{adds_attention_up, adds_attention_with_options_up};
pub use top_k::{compacts_what_it_selects, refuses_selections_that_do_not_fit, selects_the_best};
pub use window::{refuses_windows_that_do_not_fit, scores_by_a_window};

/// Asserts that a call was refused with an error that matches.
macro_rules! assert_refused {
    ($call:expr, $error:pat) => {
        let result = $call.map(|_| ());
        assert!(matches!(result, Err($error)), "{}: {result:?}", stringify!($call));
    };
}

pub(crate) use assert_refused;
