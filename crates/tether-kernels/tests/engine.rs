//! The Cube engine under the cases that every engine passes.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/runtimes.rs"]
mod runtimes;

use runtimes::{every_dtype, on_each_runtime};
use tether_core::{CoreError, DType, Engine, HostTensor, Readback};
use tether_kernels::cubecl::Runtime;
use tether_kernels::{Cube, CubeTensor};
use tether_testing::engine_cases::{self, EngineShape};

fn everywhere<R: Runtime>(
    engine: &Cube<R>,
    case: fn(&Cube<R>, &EngineShape, DType) -> Result<(), CoreError>,
) {
    every_dtype(engine, |engine, dtype| {
        EngineShape::ALL.iter().try_for_each(|shape| case(engine, shape, dtype))
    });
}

fn takes_over_memory<R: Runtime>(engine: &Cube<R>) {
    let numbers: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let tensor = engine.upload(&HostTensor::from_f32(&[64], numbers.clone()).unwrap()).unwrap();
    let from = |bytes: u64| tensor.handle().clone().offset_start(bytes);
    let second_half = CubeTensor::from_handle(from(128), &[4, 8], DType::F32).unwrap();
    let read = engine.read(&[&second_half]).unwrap().wait().unwrap();
    assert_eq!(read[0].to_f32_vec(), numbers[32..]);
    let e = CubeTensor::from_handle(from(128), &[5, 8], DType::F32);
    assert!(matches!(e, Err(CoreError::TensorLength { expected: 40, got: 32, .. })), "{e:?}");
    let e = CubeTensor::from_handle(from(4), &[8], DType::F32);
    assert!(matches!(e, Err(CoreError::Geometry { value: 4, .. })), "{e:?}");
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

    fn reads_what_is_large(engine) {
        engine_cases::reads_what_is_large(&engine).unwrap();
    }

    fn attends_over_tables(engine) {
        everywhere(&engine, engine_cases::attends_over_tables);
    }

    fn attends_to_what_is_there_now(engine) {
        everywhere(&engine, engine_cases::attends_to_what_is_there_now);
    }

    fn rotates_as_models_do(engine) {
        every_dtype(&engine, engine_cases::rotates_as_models_do);
    }

    fn attends_over_long_tables(engine) {
        every_dtype(&engine, |e, dtype| engine_cases::attends_over_tables(e, &EngineShape::LONG, dtype));
    }

    fn takes_over_memory_that_fits(engine) {
        takes_over_memory(&engine);
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
