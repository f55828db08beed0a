#![doc = include_str!("../README.md")]

mod align_moments;
mod error;
pub mod tokens;

pub use align_moments::{AlignMoments, SequenceEdit, align_tokens};
pub use error::EditError;
