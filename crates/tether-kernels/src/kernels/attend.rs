//! Block attention: every query of a block over every key that it sees.

mod combine;
mod matrix;
mod rows;
mod tiles;
mod work;

pub(crate) use combine::combine_blocks;
pub(crate) use matrix::attend_matrix;
pub(crate) use rows::{ROWS, attend_rows};
pub(crate) use tiles::{STAGES, TILE, key_step, padded, value_step};
pub(crate) use work::{ITEM_WORDS, WHOLE};

/// Steps of 32 channels whose queries stay in registers, of which there is no room for all; the fastest of 0, 1 and 2 at 128 channels.
pub(crate) const HELD: usize = 1;
