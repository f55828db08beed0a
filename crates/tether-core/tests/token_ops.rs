//! The host engine's token operations under the cases that every engine passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{CoreError, DType, Host};
use tether_testing::token_cases;

fn everywhere(case: fn(&Host, DType) -> Result<(), CoreError>) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        case(&Host::new(), dtype).unwrap();
        case(&Host::parallel(), dtype).unwrap();
    }
}

fn once(case: fn(&Host) -> Result<(), CoreError>) {
    case(&Host::new()).unwrap();
    case(&Host::parallel()).unwrap();
}

#[test]
fn rotates_by_positions() {
    everywhere(token_cases::rotates_by_positions);
}

#[test]
fn undoes_rotations() {
    everywhere(token_cases::undoes_rotations);
}

#[test]
fn refuses_rotations_that_do_not_fit() {
    once(token_cases::refuses_rotations_that_do_not_fit);
}

#[test]
fn gathers_rows() {
    everywhere(token_cases::gathers_rows);
}

#[test]
fn gathers_pages() {
    everywhere(token_cases::gathers_pages);
}

#[test]
fn refuses_rows_and_pages_that_are_not_there() {
    once(token_cases::refuses_rows_and_pages_that_are_not_there);
}

#[test]
fn selects_the_best() {
    once(token_cases::selects_the_best);
}

#[test]
fn compacts_what_it_selects() {
    everywhere(token_cases::compacts_what_it_selects);
}

#[test]
fn refuses_selections_that_do_not_fit() {
    once(token_cases::refuses_selections_that_do_not_fit);
}

#[test]
fn scores_by_a_window() {
    everywhere(token_cases::scores_by_a_window);
}

#[test]
fn refuses_windows_that_do_not_fit() {
    once(token_cases::refuses_windows_that_do_not_fit);
}

#[test]
fn attends_over_pages() {
    everywhere(token_cases::attends_over_pages);
}

#[test]
fn merges_partial_results() {
    once(token_cases::merges_partial_results);
}

#[test]
fn refuses_pages_that_do_not_fit() {
    once(token_cases::refuses_pages_that_do_not_fit);
}

#[test]
fn reads_and_writes_rows() {
    everywhere(token_cases::reads_and_writes_rows);
}

#[test]
fn refuses_rows_that_are_not_there() {
    once(token_cases::refuses_rows_that_are_not_there);
}

#[test]
fn extends_what_is_cached() {
    everywhere(token_cases::extends_what_is_cached);
}

#[test]
fn refuses_blocks_that_do_not_fit() {
    once(token_cases::refuses_blocks_that_do_not_fit);
}
