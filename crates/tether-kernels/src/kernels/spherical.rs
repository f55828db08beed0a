//! Spherical codes: numbers to codes and back. `tether_codec::SphericalFormat` has the arithmetic and the bytes.

mod bits;
mod encode;
mod restore;
mod rotation;

pub(super) use bits::{code_at, level_offset};
pub(crate) use encode::{encode_spherical, encode_spherical_pair};
pub(crate) use restore::restore_spherical;
pub(super) use rotation::rotate_shared;

/// Channels of a thread: their codes are whole words, whatever the bits.
pub(crate) const CHANNELS: u32 = 32;

/// Threads of a cube that codes rows or restores them.
pub(crate) const THREADS: u32 = 128;
