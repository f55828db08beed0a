//! Spherical codes of keys and values: a vector is a radius and a direction, and the direction's coordinates are codes of a few bits.
//!
//! # Arithmetic
//! Of a key head (of one layer): a mean `m` `[head_dim]`, rounded to `f16`, and a rotation `R` ([`HadamardRotation`]): signs from a seed, then a Walsh-Hadamard transform.
//! A row `x` of `d` channels is coded on its own, whatever its neighbours are:
//!
//! ```text
//! y = R (x - m)
//! u_j = sqrt(d) y_j / |y|            about normal, whatever x was: that is what the rotation is for
//! code_j = number of midpoints between neighbouring levels that are less than u_j
//! z_j = level[code_j]                Lloyd-Max levels of the normal distribution, 2^bits of them, ascending
//! radius = |y|^2 / <y, z>            RadiusFit::Unbiased: <y, radius z> = |y|^2 (keys from 2 bits up)
//!        = <y, z> / |z|^2            RadiusFit::LeastSquares (values, and keys of 1 bit)
//! x ~ m + R^T (radius z)
//! ```
//!
//! The radius is stored as `f16`. A row equal to the mean has the radius 0 and codes 0. A query is rotated once, and then a logit is
//! `scale (q.m + radius <R q, z>)`; values are summed rotated, and rotated back once for a query.
//!
//! # Bytes
//! A row (a token's head) is `ceil(head_dim * bits / 32)` little-endian 32-bit words ([`SphericalProblem::row_bytes`]), rows in the order of the tensor that
//! was coded (token-major). Code `j` is bits `bits * j .. bits * (j + 1)` of the row, counted from the lowest bit of its first byte, so a code of 3 or 6 bits may
//! straddle bytes and words. What is left of the last word is 0. Rows start at multiples of 16 bytes where `head_dim * bits` is a multiple of 128, as for all
//! heads of 128 and 256 channels, and pages of a multiple of 4 tokens always do. Radii are an array of their own, one `f16` for each row: a channel
//! costs `bits + 16 / head_dim` bits.

mod codes;
mod engine;
mod frame;
mod levels;
mod problem;
mod rotation;
mod row;

pub use codes::HostSpherical;
pub use engine::SphericalEngine;
pub use frame::SphericalFrame;
pub use levels::SphericalBits;
pub use problem::{RadiusFit, SphericalFormat, SphericalProblem};
pub use rotation::HadamardRotation;
