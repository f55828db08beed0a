//! The Cube engine under the cases that every engine passes, on each runtime that was compiled in.
//!
//! A runtime that is not there is skipped, with the reason, unless `TETHER_REQUIRE` (comma-separated) names it.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{CoreError, DType, Engine};
use tether_kernels::Cube;
use tether_kernels::cubecl::{self, Runtime};
use tether_testing::engine_cases::{self, EngineShape};
use tether_testing::or_skip;

/// What wgpu compiles to in this binary, as `TETHER_REQUIRE` names it.
#[cfg(feature = "wgpu")]
const WGPU: &str = if cfg!(feature = "vulkan") {
    "vulkan"
} else if cfg!(feature = "metal") {
    "metal"
} else {
    "wgpu"
};

fn everywhere<R: Runtime>(
    engine: &Cube<R>,
    case: fn(&Cube<R>, &EngineShape, DType) -> Result<(), CoreError>,
) {
    let mut ran = 0;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        if !engine.supports(dtype) {
            let refused = case(engine, &EngineShape::ALL[1], dtype);
            assert!(matches!(refused, Err(CoreError::Unsupported { .. })), "{dtype}: {refused:?}");
            eprintln!("skipped: {} does not store {dtype}", engine.name());
            continue;
        }
        for shape in EngineShape::ALL {
            case(engine, &shape, dtype).unwrap();
            ran += 1;
        }
    }
    assert!(ran >= EngineShape::ALL.len(), "every device stores f32");
}

macro_rules! engine_tests {
    ($runtime:ident, $name:expr, $type:ty) => {
        mod $runtime {
            use super::*;

            fn on_device(case: impl FnOnce(Cube<$type>)) {
                if let Some(engine) = or_skip($name, tether_kernels::$runtime()) {
                    case(engine);
                }
            }

            #[test]
            fn writes_units_and_their_moments() {
                on_device(|e| everywhere(&e, engine_cases::writes_units_and_their_moments));
            }

            #[test]
            fn scores_units_by_their_means() {
                on_device(|e| everywhere(&e, engine_cases::scores_units_by_their_means));
            }

            #[test]
            fn aligns_units_in_place() {
                on_device(|e| everywhere(&e, engine_cases::aligns_units_in_place));
            }

            #[test]
            fn rotates_keys_on_the_way_out() {
                on_device(|e| everywhere(&e, engine_cases::rotates_keys_on_the_way_out));
            }

            #[test]
            fn attends_over_tables() {
                on_device(|e| everywhere(&e, engine_cases::attends_over_tables));
            }

            #[test]
            fn grows_without_losing_anything() {
                on_device(|e| everywhere(&e, engine_cases::grows_without_losing_anything));
            }

            #[test]
            fn reads_what_was_there_when_asked() {
                on_device(|e| everywhere(&e, engine_cases::reads_what_was_there_when_asked));
            }

            #[test]
            fn refuses_what_makes_no_sense() {
                on_device(|e| engine_cases::refuses_what_makes_no_sense(&e).unwrap());
            }
        }
    };
}

#[cfg(feature = "cuda")]
engine_tests!(cuda, "cuda", cubecl::cuda::CudaRuntime);
#[cfg(feature = "rocm")]
engine_tests!(rocm, "rocm", cubecl::hip::HipRuntime);
#[cfg(feature = "wgpu")]
engine_tests!(wgpu, WGPU, cubecl::wgpu::WgpuRuntime);
