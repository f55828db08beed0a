//! A test for each runtime that was compiled in.
//!
//! A runtime that is not there is skipped, with the reason, unless `TETHER_REQUIRE` (comma-separated) names it.

use tether_core::{CoreError, DType, Engine};
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;

/// What wgpu compiles to in this binary, as `TETHER_REQUIRE` names it.
#[cfg(feature = "wgpu")]
pub(crate) const WGPU: &str = if cfg!(feature = "vulkan") {
    "vulkan"
} else if cfg!(feature = "metal") {
    "metal"
} else {
    "wgpu"
};

/// Runs `case` with each storage type that the device has; the others must be refused by name.
pub(crate) fn every_dtype<R: Runtime>(
    engine: &Cube<R>,
    case: impl Fn(&Cube<R>, DType) -> Result<(), CoreError>,
) {
    assert!(engine.supports(DType::F32), "every device stores f32");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let result = case(engine, dtype);
        if engine.supports(dtype) {
            result.unwrap();
        } else {
            assert!(matches!(result, Err(CoreError::Unsupported { .. })), "{dtype}: {result:?}");
            eprintln!("skipped: {} does not store {dtype}", engine.name());
        }
    }
}

/// `fn test(engine) { .. }`, once for each runtime that was compiled in.
macro_rules! on_each_runtime {
    ($(fn $test:ident($engine:ident) $body:block)+) => {
        #[cfg(feature = "cuda")]
        mod cuda {
            use super::*;
            on_each_runtime!(@tests ("cuda", tether_kernels::cuda()) $(fn $test($engine) $body)+);
        }
        #[cfg(feature = "rocm")]
        mod rocm {
            use super::*;
            on_each_runtime!(@tests ("rocm", tether_kernels::rocm()) $(fn $test($engine) $body)+);
        }
        #[cfg(feature = "wgpu")]
        mod wgpu {
            use super::*;
            on_each_runtime!(@tests (runtimes::WGPU, tether_kernels::wgpu()) $(fn $test($engine) $body)+);
        }
    };
    (@tests $runtime:tt $(fn $test:ident($engine:ident) $body:block)+) => {
        $(on_each_runtime!(@test $runtime fn $test($engine) $body);)+
    };
    (@test ($name:expr, $probe:expr) fn $test:ident($engine:ident) $body:block) => {
        #[test]
        fn $test() {
            if let Some($engine) = tether_testing::or_skip($name, $probe) $body
        }
    };
}

pub(crate) use on_each_runtime;
