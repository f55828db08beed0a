//! Quantised numbers in host memory.

use tether_core::Shape;

use crate::Format;

/// Codes with their scales.
#[derive(Clone, Debug, PartialEq)]
pub struct HostCodes {
    /// Shape of what was quantised, `[.., heads, head_dim]`.
    pub shape: Shape,
    /// The format.
    pub format: Format,
    /// The codes, row-major: [`crate::Bits::bytes`] of a head's channels per token and head.
    pub codes: Vec<u8>,
    /// The scales, of shape [`crate::CodeProblem::scale_shape`].
    pub scales: Vec<f32>,
    /// The zeros, of the same shape; empty for [`crate::Grouping::Token`].
    pub zeros: Vec<f32>,
}
