//! The operations of `tether bench` on a device.

use anyhow::Result;
use tether_lab::device::{Device, absent};

/// The runtime that `tether bench` takes unasked.
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
