//! From a device's name to its engine, as far as this build has it.

use anyhow::Result;
use clap::ValueEnum;
use tethercache::core::TokenEngine;
use tethercache::host::CodedHost;
use tethercache::host::Host;

use crate::artefacts::Run;
use crate::cli::Device;
use crate::exit::Usage;
use crate::rollout::{self, Rollout};

/// Refuses a device that this build has no engine for, before any work is done.
pub(crate) fn check(device: Device) -> Result<()> {
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

fn absent(device: Device) -> Usage {
    let name = device.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    Usage(format!("this build has no {name} engine: build it with --features {name}"))
}

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

/// The runtime that `tether bench` takes unasked.
#[cfg(feature = "bench")]
pub(crate) const FIRST_GPU: Device = if cfg!(feature = "cuda") {
    Device::Cuda
} else if cfg!(feature = "rocm") {
    Device::Rocm
} else if cfg!(feature = "vulkan") {
    Device::Vulkan
} else if cfg!(feature = "metal") {
    Device::Metal
} else {
    Device::Wgpu
};

/// Times the operations on `device`.
#[cfg(feature = "bench")]
pub(crate) fn bench(
    device: Device,
    ops: &[String],
    each: &mut dyn FnMut(&tether_bench::Record),
    note: &mut dyn FnMut(&str),
) -> Result<tether_bench::Ceilings> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda => Ok(tether_bench::run(&tethercache::kernels::cuda()?, ops, each, note)?),
        #[cfg(feature = "rocm")]
        Device::Rocm => Ok(tether_bench::run(&tethercache::kernels::rocm()?, ops, each, note)?),
        #[cfg(feature = "wgpu")]
        Device::Vulkan | Device::Metal | Device::Wgpu => {
            Ok(tether_bench::run(&tethercache::kernels::wgpu()?, ops, each, note)?)
        }
        other => Err(absent(other).into()),
    }
}
