//! Exact selection of the best of many.

use crate::{CoreError, DType};

/// Extents of a selection, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopKProblem {
    /// Rows, each with its own selection.
    pub rows: usize,
    /// Candidates of a row.
    pub columns: usize,
    /// How many are chosen.
    pub k: usize,
}

impl TopKProblem {
    /// From the shape and dtype of `scores`, `f32` `[rows, columns]`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::DTypeMismatch`], [`CoreError::Count`] when there are fewer than `k` candidates.
    pub fn new(scores: &[usize], dtype: DType, k: usize) -> Result<Self, CoreError> {
        let &[rows, columns] = scores else {
            let expected = [0, 0].into();
            return Err(CoreError::ShapeMismatch { what: "scores", expected, got: scores.into() });
        };
        if dtype != DType::F32 {
            return Err(CoreError::DTypeMismatch { what: "scores", expected: DType::F32, got: dtype });
        }
        if k > columns {
            return Err(CoreError::Count { what: "candidates", expected: k, got: columns });
        }
        Ok(Self { rows, columns, k })
    }
}
