//! Block attention: every query of a chunk over every key of its window.

mod matrix;
mod parts;
mod rows;

pub(crate) use matrix::{TILE, attend_matrix};
pub(crate) use parts::attend_parts;
pub(crate) use rows::{ROWS, attend_rows};

/// Warps of a cube of [`attend_matrix`], and blocks of 16 query rows of each: the fastest of four measured (8 x 2, 4 x 2, 8 x 1, 4 x 1).
pub(crate) const WARPS: u32 = 8;
pub(crate) const BLOCKS: u32 = 2;
/// Steps of 32 channels whose queries stay in registers, of which there is no room for all; the fastest of 0, 1 and 2 at 128 channels.
pub(crate) const HELD: usize = 1;
