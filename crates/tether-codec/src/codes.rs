//! Quantised numbers in host memory.

use tether_core::{CoreError, Shape, checks};

use crate::{CodeProblem, Format, Grouping};

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

impl HostCodes {
    /// The parts fit each other.
    ///
    /// # Errors
    /// Those of [`CodeProblem::new`]; [`CoreError::Count`] names the part that is too long or too short.
    pub fn check(&self) -> Result<CodeProblem, CoreError> {
        let problem = CodeProblem::new(&self.shape, self.format)?;
        let scales = problem.scale_shape().iter().product();
        let zeros = if self.format.grouping == Grouping::Token { 0 } else { scales };
        checks::count("bytes of codes", problem.code_bytes(), self.codes.len())?;
        checks::count("scales", scales, self.scales.len())?;
        checks::count("zeros", zeros, self.zeros.len())?;
        Ok(problem)
    }
}
