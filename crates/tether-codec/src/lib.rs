#![doc = include_str!("../README.md")]

mod codes;
pub mod comparison;
mod engine;
mod format;
mod integer;
mod rows;
pub mod spherical;
mod unit_codec;

pub use codes::HostCodes;
pub use engine::CodecEngine;
pub use format::{Bits, CodeProblem, Format, Grouping};
pub use integer::{AffineCodes, AffineGroups, MIN_SCALE_RANGE, codes_of_a_byte, widened};
pub use rows::{CodedRows, RowFrame, page_bytes};
pub use spherical::{
    HadamardRotation, HostSpherical, RadiusFit, SphericalBits, SphericalEngine, SphericalFormat,
    SphericalFrame, SphericalProblem,
};
pub use tether_core::{
    CoreError, DType, Engine, HostTensor, MeanOf, RowCodec, Shape, Side, TensorData, TokenEngine,
};
pub use unit_codec::UnitCodec;
