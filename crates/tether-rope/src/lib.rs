#![doc = include_str!("../README.md")]

mod error;
mod frequency;
mod table;

pub use error::RopeError;
pub use frequency::{AxisSplit, axis_frequencies};
pub use table::{phase_table, rotate_units};
pub use tether_core::{Pairing, PhaseTable, RopeKind};
