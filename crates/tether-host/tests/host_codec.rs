//! The host engine's codec operations under the cases that every engine passes.

use tether_testing::{codec_cases, on_host, on_host_for_all_dtypes};

#[test]
fn quantises() {
    on_host_for_all_dtypes(codec_cases::quantises);
}

#[test]
fn quantises_what_it_dequantised() {
    on_host(codec_cases::quantises_what_it_dequantised);
}

#[test]
fn carries_codes_unchanged() {
    on_host_for_all_dtypes(codec_cases::carries_codes_unchanged);
}

#[test]
fn refuses_formats_that_do_not_fit() {
    on_host(codec_cases::refuses_formats_that_do_not_fit);
}

#[test]
fn attends_over_codes() {
    on_host_for_all_dtypes(codec_cases::attends_over_codes);
}

#[test]
fn refuses_codes_it_cannot_attend_to() {
    on_host(codec_cases::refuses_codes_it_cannot_attend_to);
}

#[test]
fn writes_and_restores_pages() {
    on_host_for_all_dtypes(codec_cases::writes_and_restores_pages);
}

#[test]
fn attends_over_pages_of_codes() {
    on_host_for_all_dtypes(codec_cases::attends_over_pages_of_codes);
}

#[test]
fn copies_codes_unchanged() {
    on_host(codec_cases::copies_codes_unchanged);
}

#[test]
fn merges_segments() {
    on_host_for_all_dtypes(codec_cases::merges_segments);
}

#[test]
fn refuses_pages_of_codes_that_do_not_fit() {
    on_host(codec_cases::refuses_pages_of_codes_that_do_not_fit);
}
