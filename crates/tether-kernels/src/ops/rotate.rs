//! Rotations of tokens by positions.

use cubecl::prelude::*;
use tether_core::TokenShape;

use crate::{CubeRotation, CubeTensor};

/// Turns per position, modulo one, as 64-bit fixed point (high word, low word), so that a position times a frequency wraps exactly.
pub(crate) fn fixed_point_turns(radians: f64) -> (u32, u32) {
    let turns = (radians / std::f64::consts::TAU).rem_euclid(1.0);
    // Two steps, because 64 bits are more than an f64 can be scaled to at once without losing its low bits to rounding.
    let high = (turns * 2f64.powi(32)).floor();
    let low = ((turns * 2f64.powi(32) - high) * 2f64.powi(32)).floor();
    (high as u32, low as u32)
}

pub(crate) fn launch<R: Runtime>(
    _client: &ComputeClient<R>,
    _shape: &TokenShape,
    _rotation: &CubeRotation,
    _from: &CubeTensor,
    _to: &CubeTensor,
) {
}
