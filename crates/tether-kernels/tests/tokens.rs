//! The Cube engine's token and codec operations under the cases that every engine passes.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/runtimes.rs"]
mod runtimes;

use runtimes::{every_dtype, on_each_runtime};
use tether_testing::{codec_cases, token_cases};

on_each_runtime! {
    fn rotates_by_positions(engine) {
        every_dtype(&engine, token_cases::rotates_by_positions);
    }

    fn undoes_rotations(engine) {
        every_dtype(&engine, token_cases::undoes_rotations);
    }

    fn refuses_rotations_that_do_not_fit(engine) {
        token_cases::refuses_rotations_that_do_not_fit(&engine).unwrap();
    }

    fn gathers_rows(engine) {
        every_dtype(&engine, token_cases::gathers_rows);
    }

    fn gathers_pages(engine) {
        every_dtype(&engine, token_cases::gathers_pages);
    }

    fn refuses_rows_and_pages_that_are_not_there(engine) {
        token_cases::refuses_rows_and_pages_that_are_not_there(&engine).unwrap();
    }

    fn reads_and_writes_rows(engine) {
        every_dtype(&engine, token_cases::reads_and_writes_rows);
    }

    fn refuses_rows_that_are_not_there(engine) {
        token_cases::refuses_rows_that_are_not_there(&engine).unwrap();
    }

    fn extends_what_is_cached(engine) {
        every_dtype(&engine, token_cases::extends_what_is_cached);
    }

    fn refuses_blocks_that_do_not_fit(engine) {
        token_cases::refuses_blocks_that_do_not_fit(&engine).unwrap();
    }

    fn averages_rows(engine) {
        every_dtype(&engine, token_cases::averages_rows);
    }

    fn attends_to_stand_ins(engine) {
        every_dtype(&engine, token_cases::attends_to_stand_ins);
    }

    fn writes_page_bounds(engine) {
        every_dtype(&engine, token_cases::writes_page_bounds);
    }

    fn joins_similar_rows(engine) {
        every_dtype(&engine, token_cases::joins_similar_rows);
    }

    fn chooses_pages(engine) {
        every_dtype(&engine, token_cases::chooses_pages);
    }

    fn adds_attention_up(engine) {
        every_dtype(&engine, token_cases::adds_attention_up);
    }

    fn observes_leaves(engine) {
        every_dtype(&engine, token_cases::observes_leaves);
    }

    fn tells_rows(engine) {
        token_cases::tells_rows(&engine).unwrap();
    }

    fn works_with_scores(engine) {
        token_cases::works_with_scores(&engine).unwrap();
    }

    fn adds_attention_with_options_up(engine) {
        every_dtype(&engine, token_cases::adds_attention_with_options_up);
    }

    fn attends_with_options(engine) {
        every_dtype(&engine, token_cases::attends_with_options);
    }

    fn refuses_options_that_do_not_fit(engine) {
        token_cases::refuses_options_that_do_not_fit(&engine).unwrap();
    }

    fn selects_the_best(engine) {
        token_cases::selects_the_best(&engine).unwrap();
    }

    fn compacts_what_it_selects(engine) {
        every_dtype(&engine, token_cases::compacts_what_it_selects);
    }

    fn refuses_selections_that_do_not_fit(engine) {
        token_cases::refuses_selections_that_do_not_fit(&engine).unwrap();
    }

    fn scores_by_a_window(engine) {
        every_dtype(&engine, token_cases::scores_by_a_window);
    }

    fn refuses_windows_that_do_not_fit(engine) {
        token_cases::refuses_windows_that_do_not_fit(&engine).unwrap();
    }

    fn attends_over_pages(engine) {
        every_dtype(&engine, token_cases::attends_over_pages);
    }

    fn merges_partial_results(engine) {
        token_cases::merges_partial_results(&engine).unwrap();
    }

    fn refuses_pages_that_do_not_fit(engine) {
        token_cases::refuses_pages_that_do_not_fit(&engine).unwrap();
    }

    fn writes_and_restores_pages(engine) {
        every_dtype(&engine, codec_cases::writes_and_restores_pages);
    }

    fn attends_over_pages_of_codes(engine) {
        every_dtype(&engine, codec_cases::attends_over_pages_of_codes);
    }

    fn copies_codes_unchanged(engine) {
        codec_cases::copies_codes_unchanged(&engine).unwrap();
    }

    fn merges_segments(engine) {
        every_dtype(&engine, codec_cases::merges_segments);
    }

    fn refuses_pages_of_codes_that_do_not_fit(engine) {
        codec_cases::refuses_pages_of_codes_that_do_not_fit(&engine).unwrap();
    }

    fn quantises(engine) {
        every_dtype(&engine, codec_cases::quantises);
    }

    fn quantises_what_it_dequantised(engine) {
        codec_cases::quantises_what_it_dequantised(&engine).unwrap();
    }

    fn carries_codes_unchanged(engine) {
        every_dtype(&engine, codec_cases::carries_codes_unchanged);
    }

    fn refuses_formats_that_do_not_fit(engine) {
        codec_cases::refuses_formats_that_do_not_fit(&engine).unwrap();
    }

    fn attends_over_codes(engine) {
        every_dtype(&engine, codec_cases::attends_over_codes);
    }

    fn refuses_codes_it_cannot_attend_to(engine) {
        codec_cases::refuses_codes_it_cannot_attend_to(&engine).unwrap();
    }

    fn codes_spherically(engine) {
        every_dtype(&engine, codec_cases::codes_spherically);
    }

    fn restores_spherical_codes(engine) {
        every_dtype(&engine, codec_cases::restores_spherical_codes);
    }

    fn carries_spherical_codes_unchanged(engine) {
        codec_cases::carries_spherical_codes_unchanged(&engine).unwrap();
    }

    fn writes_spherical_rows(engine) {
        every_dtype(&engine, codec_cases::writes_spherical_rows);
    }

    fn refuses_spherical_codes_that_do_not_fit(engine) {
        codec_cases::refuses_spherical_codes_that_do_not_fit(&engine).unwrap();
    }

    fn attends_over_spherical_codes(engine) {
        every_dtype(&engine, codec_cases::attends_over_spherical_codes);
    }

    fn merges_spherical_codes_with_numbers(engine) {
        codec_cases::merges_spherical_codes_with_numbers(&engine).unwrap();
    }

    fn refuses_spherical_codes_it_cannot_attend_to(engine) {
        codec_cases::refuses_spherical_codes_it_cannot_attend_to(&engine).unwrap();
    }
}
