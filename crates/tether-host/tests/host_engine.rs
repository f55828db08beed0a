//! The host engine under the cases that every engine passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{CoreError, DType};
use tether_host::Host;
use tether_testing::engine_cases::{self, EngineShape};

fn everywhere(case: fn(&Host, &EngineShape, DType) -> Result<(), CoreError>) {
    for shape in EngineShape::ALL {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            case(&Host::new(), &shape, dtype).unwrap();
        }
    }
}

#[test]
fn writes_units_and_their_moments() {
    everywhere(engine_cases::writes_units_and_their_moments);
}

#[test]
fn scores_units_by_their_means() {
    everywhere(engine_cases::scores_units_by_their_means);
}

#[test]
fn aligns_units_in_place() {
    everywhere(engine_cases::aligns_units_in_place);
}

#[test]
fn aligns_the_same_units_again() {
    for shape in EngineShape::ALL {
        engine_cases::aligns_the_same_units_again(&Host::new(), &shape).unwrap();
    }
}

#[test]
fn keeps_small_spreads_far_from_zero() {
    engine_cases::keeps_small_spreads_far_from_zero(&Host::new()).unwrap();
}

#[test]
fn scores_several_stores_at_once() {
    engine_cases::scores_several_stores_at_once(&Host::new()).unwrap();
}

#[test]
fn rotates_keys_on_the_way_out() {
    everywhere(engine_cases::rotates_keys_on_the_way_out);
}

#[test]
fn attends_over_tables() {
    everywhere(engine_cases::attends_over_tables);
}

#[test]
fn attends_to_what_is_there_now() {
    everywhere(engine_cases::attends_to_what_is_there_now);
    let shape = EngineShape::ALL[2];
    engine_cases::attends_to_what_is_there_now(&Host::parallel(), &shape, DType::F32).unwrap();
}

#[test]
fn rotates_as_models_do() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        engine_cases::rotates_as_models_do(&Host::new(), dtype).unwrap();
    }
}

#[test]
fn attends_over_long_tables() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        engine_cases::attends_over_tables(&Host::new(), &EngineShape::LONG, dtype).unwrap();
    }
}

#[test]
fn grows_without_losing_anything() {
    everywhere(engine_cases::grows_without_losing_anything);
}

#[test]
fn reads_what_was_there_when_asked() {
    everywhere(engine_cases::reads_what_was_there_when_asked);
}

#[test]
fn refuses_what_makes_no_sense() {
    engine_cases::refuses_what_makes_no_sense(&Host::new()).unwrap();
    engine_cases::refuses_what_makes_no_sense(&Host::parallel()).unwrap();
}

#[test]
fn reads_what_is_large() {
    engine_cases::reads_what_is_large(&Host::new()).unwrap();
}
