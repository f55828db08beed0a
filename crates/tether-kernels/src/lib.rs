#![doc = include_str!("../README.md")]

#[cfg(feature = "codegen")]
pub mod codegen;
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod cube;
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod kernels;
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod ops;
mod probe;

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
pub use cube::{
    Cube, CubeAttention, CubeCodePages, CubeCodes, CubeFrame, CubeIndices, CubePageTable, CubeReadback,
    CubeReuseError, CubeRotation, CubeSpherical, CubeStore, CubeTables, CubeTensor, QueuedSignals,
};
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
pub use cubecl;
pub use probe::ProbeError;
#[cfg(feature = "cuda")]
pub use probe::cuda;
#[cfg(feature = "rocm")]
pub use probe::rocm;
#[cfg(feature = "wgpu")]
pub use probe::wgpu;
