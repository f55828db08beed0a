#![doc = include_str!("../README.md")]

mod codes;
mod engine;
mod format;
mod host;

pub use codes::HostCodes;
pub use engine::CodecEngine;
pub use format::{Bits, CodeProblem, Format, Grouping, MIN_SCALE_RANGE};
