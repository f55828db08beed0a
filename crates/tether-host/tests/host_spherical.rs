//! The host engine's spherical codes under the cases that every engine passes.

use tether_testing::{codec_cases, on_host, on_host_for_all_dtypes};

#[test]
fn codes_spherically() {
    on_host_for_all_dtypes(codec_cases::codes_spherically);
}

#[test]
fn restores_spherical_codes() {
    on_host_for_all_dtypes(codec_cases::restores_spherical_codes);
}

#[test]
fn carries_spherical_codes_unchanged() {
    on_host(codec_cases::carries_spherical_codes_unchanged);
}

#[test]
fn writes_spherical_rows() {
    on_host_for_all_dtypes(codec_cases::writes_spherical_rows);
}

#[test]
fn refuses_spherical_codes_that_do_not_fit() {
    on_host(codec_cases::refuses_spherical_codes_that_do_not_fit);
}

#[test]
fn attends_over_spherical_codes() {
    on_host_for_all_dtypes(codec_cases::attends_over_spherical_codes);
}

#[test]
fn merges_spherical_codes_with_numbers() {
    on_host(codec_cases::merges_spherical_codes_with_numbers);
}

#[test]
fn refuses_spherical_codes_it_cannot_attend_to() {
    on_host(codec_cases::refuses_spherical_codes_it_cannot_attend_to);
}
