//! From a device's name to its engine, as far as this build has it.

use anyhow::Result;
use clap::ValueEnum;
#[cfg(feature = "language")]
use tethercache::core::TokenEngine;
use tethercache::host::{CodedHost, Host};

use crate::artefacts::Run;
use crate::rollout::{self, Rollout};
use crate::usage::Usage;

/// An engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// Plain Rust.
    #[default]
    Host,
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// SPIR-V on Vulkan.
    Vulkan,
    /// MSL on macOS.
    Metal,
    /// WGSL on what wgpu finds.
    Wgpu,
}

/// Refuses a device that this build has no engine for, before any work is done.
///
/// # Errors
/// [`Usage`].
pub fn check(device: Device) -> Result<()> {
    let compiled = match device {
        Device::Host => true,
        Device::Cuda => cfg!(feature = "cuda"),
        Device::Rocm => cfg!(feature = "rocm"),
        Device::Vulkan => cfg!(feature = "vulkan"),
        Device::Metal => cfg!(feature = "metal"),
        // The other two take WGSL's place in a build.
        Device::Wgpu => cfg!(all(feature = "wgpu", not(feature = "vulkan"), not(feature = "metal"))),
    };
    if compiled { Ok(()) } else { Err(absent(device).into()) }
}

/// What is said of one.
pub fn absent(device: Device) -> Usage {
    let name = device.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    Usage(format!("this build has no {name} engine: build it with --features {name}"))
}

#[cfg(feature = "language")]
/// Something to be done on whichever engine was asked for.
pub(crate) trait OnEngine {
    /// What comes out.
    type Out;

    /// Does it.
    fn run<E>(self, engine: E) -> Result<Self::Out>
    where
        E: TokenEngine + std::fmt::Debug;
}

/// `$body` with `$engine` as the engine of `$device`, which is `$host` on the host.
macro_rules! on_engine {
    ($device:expr, $host:expr, $engine:ident => $body:expr) => {
        match $device {
            Device::Host => {
                let $engine = $host;
                $body
            }
            #[cfg(feature = "cuda")]
            Device::Cuda => {
                let $engine = tethercache::kernels::cuda()?;
                $body
            }
            #[cfg(feature = "rocm")]
            Device::Rocm => {
                let $engine = tethercache::kernels::rocm()?;
                $body
            }
            #[cfg(feature = "wgpu")]
            Device::Vulkan | Device::Metal | Device::Wgpu => {
                let $engine = tethercache::kernels::wgpu()?;
                $body
            }
            #[allow(unreachable_patterns, reason = "which devices are left depends on the features")]
            other => Err(absent(other).into()),
        }
    };
}

#[cfg(feature = "language")]
/// Does `task` on `device`.
pub(crate) fn run<T: OnEngine>(device: Device, task: T) -> Result<T::Out> {
    on_engine!(device, Host::parallel(), engine => task.run(engine))
}

/// Makes one video with its cache on `device`.
pub(crate) fn roll_out(device: Device, video: &Rollout<'_>) -> Result<Run> {
    if let (Device::Host, Some(codec)) = (device, video.recipe.codec) {
        return rollout::roll_out(video, CodedHost::new(Host::new(), codec));
    }
    on_engine!(device, Host::new(), engine => rollout::roll_out(video, engine))
}
