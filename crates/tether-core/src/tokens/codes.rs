//! Pages of codes: what they hold, and what their codes are relative to.

use super::RowCodec;
use crate::{CoreError, Engine, Side, checks};

/// Pages of codes of keys and of values. A page holds tokens of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSpec {
    /// How keys are coded.
    pub keys: RowCodec,
    /// How values are coded.
    pub values: RowCodec,
    /// Channels of a key and of a value.
    pub head_dims: (usize, usize),
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages.
    pub pages: usize,
}

impl CodeSpec {
    /// Sizes are in range.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`], [`CoreError::Geometry`] for pages of no tokens.
    pub fn validate(&self) -> Result<(), CoreError> {
        self.keys.validate(self.head_dims.0)?;
        self.values.validate(self.head_dims.1)?;
        checks::setting(self.page_size > 0, "page_size", self.page_size, "must be at least 1")
    }

    /// The codec of a side.
    pub fn codec(&self, side: Side) -> &RowCodec {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Channels of a side.
    pub fn head_dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.head_dims.0,
            Side::Values => self.head_dims.1,
        }
    }

    /// Rows `[page_size, pages, head_dim]` of either side are those of `pages` pages.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn check_rows(&self, pages: usize, k: &[usize], v: &[usize]) -> Result<(), CoreError> {
        for (what, dim, got) in [("k", self.head_dims.0, k), ("v", self.head_dims.1, v)] {
            let expected = [self.page_size, pages, dim];
            if got != expected {
                return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() });
            }
        }
        Ok(())
    }

    /// A frame of a side has `count` rows of the length that its codec asks for; a codec that asks for none has none.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn check_frame(&self, side: Side, count: usize, got: Option<&[usize]>) -> Result<(), CoreError> {
        let what = if side == Side::Keys { "frame of keys" } else { "frame of values" };
        let expected = [count, self.codec(side).frame_len(self.head_dim(side))];
        let got = got.unwrap_or(&[]);
        if got == expected || (expected[1] == 0 && got.is_empty()) {
            return Ok(());
        }
        Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() })
    }
}

/// What codes of keys and of values are relative to, `f32` `[n, RowCodec::frame_len]` of each side whose codec asks for
/// it.
#[derive(Debug)]
pub struct CodeFrames<'a, E: Engine> {
    /// Of keys.
    pub keys: Option<&'a E::Tensor>,
    /// Of values.
    pub values: Option<&'a E::Tensor>,
}

impl<'a, E: Engine> CodeFrames<'a, E> {
    /// Of a side.
    pub fn of(&self, side: Side) -> Option<&'a E::Tensor> {
        match side {
            Side::Keys => self.keys,
            Side::Values => self.values,
        }
    }
}
