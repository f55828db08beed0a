#![doc = include_str!("../README.md")]

mod codes;
pub mod comparison;
mod engine;
mod error;
mod format;
mod rows;
pub mod spherical;
mod unit_codec;

pub use codes::HostCodes;
pub use engine::CodecEngine;
pub use error::CodecError;
pub use format::{Bits, CodeProblem, Format, Grouping, MIN_SCALE_RANGE};
pub use rows::{CodedRows, MeanOf, RowCodec, RowFrame};
pub use spherical::{
    HadamardRotation, HostSpherical, RadiusFit, SphericalBits, SphericalEngine, SphericalFormat,
    SphericalFrame, SphericalProblem,
};
pub use tether_core::{CoreError, DType, Engine, HostTensor, Shape, Side, TensorData, TokenEngine};
pub use unit_codec::UnitCodec;
