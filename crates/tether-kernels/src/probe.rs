//! Finding a device, without a panic when there is none.

/// Why there is no engine of a runtime here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No driver, no device, or a device that did not compute what it was asked.
    #[error("{runtime}: {reason}")]
    Missing {
        /// The runtime.
        runtime: &'static str,
        /// What was tried and what came.
        reason: String,
    },
}

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod devices {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use cubecl::prelude::*;
    use tether_core::{Engine, HostTensor, Readback};

    use super::ProbeError;
    use crate::Cube;

    /// An engine on the default device of `R`, once it has shown that it stores and returns data. CubeCL panics where a driver or a
    /// device is missing; that becomes an error here.
    fn probe<R: Runtime>(runtime: &'static str) -> Result<Cube<R>, ProbeError>
    where
        R::Device: Default,
    {
        let missing = |reason: String| ProbeError::Missing { runtime, reason };
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let engine = Cube::<R>::new(R::client(&R::Device::default()));
            let sent = HostTensor::from_f32(&[3], vec![1.0, -2.5, 1e30])?;
            let tensor = engine.upload(&sent)?;
            let back = engine.read(&[&tensor])?.wait()?;
            Ok((engine, back.first() == Some(&sent)))
        }));
        match attempt {
            Ok(Ok((engine, true))) => Ok(engine),
            Ok(Ok((_, false))) => Err(missing("the device returned other data than it was given".to_owned())),
            Ok(Err(error)) => {
                let error: tether_core::CoreError = error;
                Err(missing(error.to_string()))
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(missing(text.unwrap_or("the runtime panicked").to_owned()))
            }
        }
    }

    /// The default wgpu adapter.
    ///
    /// # Errors
    /// [`ProbeError::Missing`] when there is none.
    #[cfg(feature = "wgpu")]
    pub fn wgpu() -> Result<Cube<cubecl::wgpu::WgpuRuntime>, ProbeError> {
        probe("wgpu")
    }

    /// The default CUDA device.
    ///
    /// # Errors
    /// [`ProbeError::Missing`] when there is no driver or no device.
    #[cfg(feature = "cuda")]
    pub fn cuda() -> Result<Cube<cubecl::cuda::CudaRuntime>, ProbeError> {
        probe("cuda")
    }

    /// The default ROCm device.
    ///
    /// # Errors
    /// [`ProbeError::Missing`] when there is no driver or no device.
    #[cfg(feature = "rocm")]
    pub fn rocm() -> Result<Cube<cubecl::hip::HipRuntime>, ProbeError> {
        probe("rocm")
    }
}

#[cfg(feature = "cuda")]
pub use devices::cuda;
#[cfg(feature = "rocm")]
pub use devices::rocm;
#[cfg(feature = "wgpu")]
pub use devices::wgpu;
