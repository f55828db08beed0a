//! The Cube engine under the cases that every engine passes.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/runtimes.rs"]
mod runtimes;

use runtimes::{every_dtype, on_each_runtime};
use tether_core::{CoreError, DType};
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;
use tether_testing::engine_cases::{self, EngineShape};

fn everywhere<R: Runtime>(
    engine: &Cube<R>,
    case: fn(&Cube<R>, &EngineShape, DType) -> Result<(), CoreError>,
) {
    every_dtype(engine, |engine, dtype| {
        EngineShape::ALL.iter().try_for_each(|shape| case(engine, shape, dtype))
    });
}

on_each_runtime! {
    fn writes_units_and_their_moments(engine) {
        everywhere(&engine, engine_cases::writes_units_and_their_moments);
    }

    fn scores_units_by_their_means(engine) {
        everywhere(&engine, engine_cases::scores_units_by_their_means);
    }

    fn aligns_units_in_place(engine) {
        everywhere(&engine, engine_cases::aligns_units_in_place);
    }

    fn aligns_the_same_units_again(engine) {
        for shape in EngineShape::ALL {
            engine_cases::aligns_the_same_units_again(&engine, &shape).unwrap();
        }
    }

    fn keeps_small_spreads_far_from_zero(engine) {
        engine_cases::keeps_small_spreads_far_from_zero(&engine).unwrap();
    }

    fn scores_several_stores_at_once(engine) {
        engine_cases::scores_several_stores_at_once(&engine).unwrap();
    }

    fn rotates_keys_on_the_way_out(engine) {
        everywhere(&engine, engine_cases::rotates_keys_on_the_way_out);
    }

    fn attends_over_tables(engine) {
        everywhere(&engine, engine_cases::attends_over_tables);
    }

    fn grows_without_losing_anything(engine) {
        everywhere(&engine, engine_cases::grows_without_losing_anything);
    }

    fn reads_what_was_there_when_asked(engine) {
        everywhere(&engine, engine_cases::reads_what_was_there_when_asked);
    }

    fn refuses_what_makes_no_sense(engine) {
        engine_cases::refuses_what_makes_no_sense(&engine).unwrap();
    }
}
