#![doc = include_str!("../README.md")]

mod error;
mod frames;
mod frequency;
mod token_rope;

pub use error::RopeError;
pub use frames::FrameRope;
pub use frequency::axis_frequencies;
pub use tether_core::{
    Axis, AxisLayout, AxisOrder, CoreError, Frequencies, MAX_AXES, Pairing, RopeKind, RopeSpan, Rotation,
    RotationExtents,
};
pub use token_rope::{Angles, TokenRope, Yarn, rotate_rows, turned};
