//! The host engine's spherical codes under the cases that every engine passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{CoreError, DType, Host};
use tether_testing::codec_cases;

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
fn codes_spherically() {
    everywhere(codec_cases::codes_spherically);
}

#[test]
fn restores_spherical_codes() {
    everywhere(codec_cases::restores_spherical_codes);
}

#[test]
fn carries_spherical_codes_unchanged() {
    once(codec_cases::carries_spherical_codes_unchanged);
}

#[test]
fn writes_spherical_rows() {
    everywhere(codec_cases::writes_spherical_rows);
}

#[test]
fn refuses_spherical_codes_that_do_not_fit() {
    once(codec_cases::refuses_spherical_codes_that_do_not_fit);
}

#[test]
fn attends_over_spherical_codes() {
    everywhere(codec_cases::attends_over_spherical_codes);
}

#[test]
fn merges_spherical_codes_with_numbers() {
    once(codec_cases::merges_spherical_codes_with_numbers);
}

#[test]
fn refuses_spherical_codes_it_cannot_attend_to() {
    once(codec_cases::refuses_spherical_codes_it_cannot_attend_to);
}
