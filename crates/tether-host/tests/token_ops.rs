//! The host engine's token operations under the cases that every engine passes.

use tether_testing::{on_host, on_host_for_all_dtypes, token_cases};

#[test]
fn rotates_by_positions() {
    on_host_for_all_dtypes(token_cases::rotates_by_positions);
}

#[test]
fn undoes_rotations() {
    on_host_for_all_dtypes(token_cases::undoes_rotations);
}

#[test]
fn refuses_rotations_that_do_not_fit() {
    on_host(token_cases::refuses_rotations_that_do_not_fit);
}

#[test]
fn gathers_rows() {
    on_host_for_all_dtypes(token_cases::gathers_rows);
}

#[test]
fn gathers_pages() {
    on_host_for_all_dtypes(token_cases::gathers_pages);
}

#[test]
fn refuses_rows_and_pages_that_are_not_there() {
    on_host(token_cases::refuses_rows_and_pages_that_are_not_there);
}

#[test]
fn selects_the_best() {
    on_host(token_cases::selects_the_best);
}

#[test]
fn compacts_what_it_selects() {
    on_host_for_all_dtypes(token_cases::compacts_what_it_selects);
}

#[test]
fn refuses_selections_that_do_not_fit() {
    on_host(token_cases::refuses_selections_that_do_not_fit);
}

#[test]
fn scores_by_a_window() {
    on_host_for_all_dtypes(token_cases::scores_by_a_window);
}

#[test]
fn refuses_windows_that_do_not_fit() {
    on_host(token_cases::refuses_windows_that_do_not_fit);
}

#[test]
fn attends_over_pages() {
    on_host_for_all_dtypes(token_cases::attends_over_pages);
}

#[test]
fn merges_partial_results() {
    on_host(token_cases::merges_partial_results);
}

#[test]
fn refuses_pages_that_do_not_fit() {
    on_host(token_cases::refuses_pages_that_do_not_fit);
}

#[test]
fn reads_and_writes_rows() {
    on_host_for_all_dtypes(token_cases::reads_and_writes_rows);
}

#[test]
fn refuses_rows_that_are_not_there() {
    on_host(token_cases::refuses_rows_that_are_not_there);
}

#[test]
fn adds_attention_up() {
    on_host_for_all_dtypes(token_cases::adds_attention_up);
}

#[test]
fn observes_leaves() {
    on_host_for_all_dtypes(token_cases::observes_leaves);
}

#[test]
fn tells_rows() {
    on_host(token_cases::tells_rows);
}

#[test]
fn works_with_scores() {
    on_host(token_cases::works_with_scores);
}

#[test]
fn extends_what_is_cached() {
    on_host_for_all_dtypes(token_cases::extends_what_is_cached);
}

#[test]
fn refuses_blocks_that_do_not_fit() {
    on_host(token_cases::refuses_blocks_that_do_not_fit);
}

#[test]
fn attends_with_options() {
    on_host_for_all_dtypes(token_cases::attends_with_options);
}

#[test]
fn refuses_options_that_do_not_fit() {
    on_host(token_cases::refuses_options_that_do_not_fit);
}

#[test]
fn adds_attention_with_options_up() {
    on_host_for_all_dtypes(token_cases::adds_attention_with_options_up);
}

#[test]
fn averages_rows() {
    on_host_for_all_dtypes(token_cases::averages_rows);
}

#[test]
fn attends_to_stand_ins() {
    on_host_for_all_dtypes(token_cases::attends_to_stand_ins);
}

#[test]
fn writes_page_bounds() {
    on_host_for_all_dtypes(token_cases::writes_page_bounds);
}

#[test]
fn joins_similar_rows() {
    on_host_for_all_dtypes(token_cases::joins_similar_rows);
}

#[test]
fn chooses_pages() {
    on_host_for_all_dtypes(token_cases::chooses_pages);
}
