//! Compaction: chosen rows or pages, copied next to each other.

use crate::{CoreError, TokenLayout, TokenShape};

/// Extents of a per-head gather, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// What is gathered from.
    pub from: TokenShape,
    /// Rows of each head that are kept.
    pub kept: usize,
}

impl RowProblem {
    /// From a tensor's shape and that of its indices `[heads, kept]`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn new(x: &[usize], layout: TokenLayout, indices: &[usize]) -> Result<Self, CoreError> {
        let from = TokenShape::of("x", x, layout)?;
        match *indices {
            [heads, kept] if heads == from.heads => Ok(Self { from, kept }),
            _ => {
                let expected = [from.heads, 0].into();
                Err(CoreError::ShapeMismatch { what: "indices", expected, got: indices.into() })
            }
        }
    }

    /// Shape of the result, in the order of the source.
    pub fn to(&self) -> TokenShape {
        TokenShape { tokens: self.kept, ..self.from }
    }
}

/// Extents of a page gather, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageProblem {
    /// Pages of the pool.
    pub pages: usize,
    /// Elements of a page.
    pub page_len: usize,
    /// Pages that are copied.
    pub kept: usize,
}

impl PageProblem {
    /// From a pool's shape `[pages, ..]` and that of its indices `[kept]`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn new(pool: &[usize], indices: &[usize]) -> Result<Self, CoreError> {
        let (Some((&pages, page)), &[kept]) = (pool.split_first(), indices) else {
            return Err(CoreError::ShapeMismatch {
                what: "indices",
                expected: [0].into(),
                got: indices.into(),
            });
        };
        Ok(Self { pages, page_len: page.iter().product(), kept })
    }
}
