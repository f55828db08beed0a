//! Block attention: every query of a chunk over every key of its window.

mod matrix;
mod rows;

pub(crate) use matrix::attend_matrix;
pub(crate) use rows::{ROWS, attend_rows};
