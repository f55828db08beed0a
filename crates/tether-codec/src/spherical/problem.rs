//! Formats and extents of spherical codes.

use tether_core::{CoreError, Side};

use super::{SphericalBits, SphericalFrame};

/// How a radius is fitted to a direction that was rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RadiusFit {
    /// The component along the vector is kept: logits are right on average. The error is larger, and grows beyond use at 1 bit.
    Unbiased,
    /// The smallest squared error.
    LeastSquares,
}

/// A format of spherical codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SphericalFormat {
    /// Bits of a channel.
    pub bits: SphericalBits,
    /// How radii are fitted.
    pub fit: RadiusFit,
}

impl SphericalFormat {
    /// What keys, or values, are coded with.
    pub fn of(side: Side, bits: SphericalBits) -> Self {
        let unbiased = side == Side::Keys && bits != SphericalBits::One;
        Self { bits, fit: if unbiased { RadiusFit::Unbiased } else { RadiusFit::LeastSquares } }
    }

    /// Bits that a row of `head_dim` channels costs, codes and radius, without what rounds it up to a word.
    pub fn row_bits(self, head_dim: usize) -> usize {
        self.bits.bits() * head_dim + 16
    }
}

/// Extents of spherical codes, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SphericalProblem {
    /// Tokens: the product of all extents but the last two.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// The format.
    pub format: SphericalFormat,
}

impl SphericalProblem {
    /// From the shape `[.., heads, head_dim]` of what is coded.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for fewer than two extents, [`CoreError::Geometry`] for a head of no channels or of channels that are not a multiple of
    /// 8, [`CoreError::SizeOverflow`].
    pub fn new(shape: &[usize], format: SphericalFormat) -> Result<Self, CoreError> {
        let &[ref tokens @ .., heads, head_dim] = shape else {
            return Err(CoreError::ShapeMismatch {
                what: "x",
                expected: [0, 0, 0].into(),
                got: shape.into(),
            });
        };
        if head_dim == 0 || !head_dim.is_multiple_of(8) {
            let requirement = "must be a multiple of 8, and not 0";
            return Err(CoreError::Geometry { field: "head_dim", value: head_dim, requirement });
        }
        // Also where there are no tokens: the size of a row is asked for then too.
        let total = shape.iter().try_fold(8usize, |n, &extent| n.checked_mul(extent.max(1)));
        if total.is_none_or(|n| n > isize::MAX as usize) {
            return Err(CoreError::SizeOverflow { what: "spherical codes", factors: shape.into() });
        }
        Ok(Self { tokens: tokens.iter().product(), heads, head_dim, format })
    }

    /// Rows: a token's heads.
    pub fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// Bytes of a row's codes, a multiple of 4.
    pub fn row_bytes(&self) -> usize {
        (self.head_dim * self.format.bits.bits()).div_ceil(32) * 4
    }

    /// Bytes of all codes.
    pub fn code_bytes(&self) -> usize {
        self.rows() * self.row_bytes()
    }

    /// Bytes of codes and radii.
    pub fn bytes(&self) -> usize {
        self.code_bytes() + 2 * self.rows()
    }

    /// A frame has this many heads, of as many channels.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn suits(&self, frame: &SphericalFrame) -> Result<(), CoreError> {
        frame.holds("frame", self.heads, self.head_dim)
    }

    /// Rows of `x`, whose problem this is, may be written to a pool of problem `places` at `rows`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn written_to(&self, places: &Self, x: &[usize], rows: &[usize]) -> Result<(), CoreError> {
        if places.head_dim != self.head_dim {
            let expected = [x.first().copied().unwrap_or(0), self.heads, places.head_dim].into();
            return Err(CoreError::ShapeMismatch { what: "x", expected, got: x.into() });
        }
        let expected = &x[..x.len() - 1];
        if rows != expected {
            return Err(CoreError::ShapeMismatch {
                what: "rows",
                expected: expected.into(),
                got: rows.into(),
            });
        }
        Ok(())
    }
}
