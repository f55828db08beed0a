//! The host engine's codec operations under the cases that every engine passes.

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
fn quantises() {
    everywhere(codec_cases::quantises);
}

#[test]
fn quantises_what_it_dequantised() {
    once(codec_cases::quantises_what_it_dequantised);
}

#[test]
fn carries_codes_unchanged() {
    everywhere(codec_cases::carries_codes_unchanged);
}

#[test]
fn refuses_formats_that_do_not_fit() {
    once(codec_cases::refuses_formats_that_do_not_fit);
}

#[test]
fn attends_over_codes() {
    everywhere(codec_cases::attends_over_codes);
}

#[test]
fn refuses_codes_it_cannot_attend_to() {
    once(codec_cases::refuses_codes_it_cannot_attend_to);
}
