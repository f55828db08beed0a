//! The Cube engine's operations of step reuse under the cases that every engine passes.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/runtimes.rs"]
mod runtimes;

use runtimes::{every_dtype, on_each_runtime};
use tether_core::{CoreError, DType, Engine, HostTensor};
use tether_kernels::cubecl::Runtime;
use tether_kernels::{Cube, CubeReuseError};
use tether_reuse::{Base, Grid, Reduction, ReuseEngine};
use tether_testing::reuse_cases::{self, ReuseSubject};

fn everywhere<R: Runtime>(
    engine: &Cube<R>,
    case: fn(&ReuseSubject<'_, Cube<R>>, DType) -> Result<(), CoreError>,
) {
    every_dtype(engine, |engine, dtype| case(&ReuseSubject::device(engine), dtype));
}

fn once<R: Runtime>(engine: &Cube<R>, case: fn(&ReuseSubject<'_, Cube<R>>) -> Result<(), CoreError>) {
    case(&ReuseSubject::device(engine)).unwrap();
}

/// Dtypes are not mixed: a kernel reads all tensors as one type.
fn refuses_mixed<R: Runtime>(engine: &Cube<R>) {
    let upload = |dtype| engine.upload(&HostTensor::zeros(&[16], dtype).unwrap());
    let mut x = upload(DType::F32).unwrap();
    let Ok(half) = upload(DType::F16) else { return };
    let grid = Grid { frames: 1, tokens: 4 };
    let differs = |result: Result<(), CubeReuseError>| {
        matches!(result, Err(CubeReuseError::Engine(CoreError::DTypeMismatch { .. })))
    };
    for reduction in [Reduction::RelL1(&x, &half), Reduction::TokenRatio(&x, &half)] {
        assert!(differs(engine.measure(&[reduction], grid).map(drop)));
    }
    assert!(differs(engine.copy_into(&half, &mut x)));
    assert!(differs(engine.climb(&half, std::slice::from_mut(&mut x), 0, 1.0)));
    assert!(differs(engine.combine(Base::InPlace, &[(1.0, &half)], None, &mut x)));
    assert!(differs(engine.combine(Base::Tensor(&half), &[], None, &mut x)));
}

/// A step's signals come back with one read, however many there are.
fn reads_back_once<R: Runtime>(engine: &Cube<R>) {
    let x = engine.noise(&[64, 64], DType::F32, 1).unwrap();
    let y = engine.noise(&[64, 64], DType::F32, 2).unwrap();
    let grid = Grid { frames: 4, tokens: 64 };
    let read = |reductions: &[Reduction<'_, _>]| {
        let before = engine.traffic().read_back;
        engine.measure(reductions, grid).unwrap();
        engine.traffic().read_back - before
    };
    let pair = read(&[Reduction::MeanAbsDiff(&x, &y)]);
    // The same pass over the same tensors.
    assert_eq!(read(&[Reduction::MeanAbs(&x), Reduction::MeanAbs(&y), Reduction::RelL1(&x, &y)]), pair);
    assert!(pair > 0 && pair <= 3 * 1056 * 4, "{pair} bytes");
    assert_eq!(read(&[]), 0);
}

on_each_runtime! {
    fn measures_signals(engine) {
        everywhere(&engine, reuse_cases::measures_signals);
    }

    fn measures_nothing_as_nothing(engine) {
        once(&engine, reuse_cases::measures_nothing_as_nothing);
    }

    fn tells_what_is_not_a_number(engine) {
        everywhere(&engine, reuse_cases::tells_what_is_not_a_number);
    }

    fn refuses_grids_that_do_not_fit(engine) {
        once(&engine, reuse_cases::refuses_grids_that_do_not_fit);
    }

    fn makes_differences(engine) {
        everywhere(&engine, reuse_cases::makes_differences);
    }

    fn climbs_ladders(engine) {
        everywhere(&engine, reuse_cases::climbs_ladders);
    }

    fn combines_tensors(engine) {
        everywhere(&engine, reuse_cases::combines_tensors);
    }

    fn refuses_tensors_that_do_not_fit(engine) {
        once(&engine, reuse_cases::refuses_tensors_that_do_not_fit);
    }

    fn refuses_dtypes_that_differ(engine) {
        refuses_mixed(&engine);
    }

    fn reads_back_once_a_step(engine) {
        reads_back_once(&engine);
    }

    fn reuses_steps_as_the_host_does(engine) {
        let other = || Cube::new(engine.client().clone());
        reuse_cases::reuses_steps_as_the_host_does(&ReuseSubject::device(&engine), other).unwrap();
    }
}
