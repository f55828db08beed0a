#![doc = include_str!("../README.md")]

mod error;
mod frequency;
mod table;
mod token_rope;

pub use error::RopeError;
pub use frequency::{AxisSplit, axis_frequencies};
pub use table::{phase_table, rotate_units};
pub use tether_core::{
    CoreError, MAX_AXES, Pairing, PhaseRows, PhaseTable, RopeKind, Rotation, RotationExtents,
};
pub use token_rope::{Angles, TokenRope, Yarn, rotate_rows, turned};
