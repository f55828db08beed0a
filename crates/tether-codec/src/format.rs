//! Formats of quantised keys and values.

use tether_core::CoreError;

/// Bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 4 bits, two codes in a byte: channel `j` in the low half, channel `j + head_dim / 2` in the high half.
    Four,
    /// 8 bits.
    Eight,
}

impl Bits {
    /// Largest code when codes are unsigned.
    pub fn levels(self) -> u32 {
        match self {
            Self::Four => 15,
            Self::Eight => 255,
        }
    }

    /// Largest magnitude when codes are signed.
    pub fn signed_max(self) -> i32 {
        match self {
            Self::Four => 7,
            Self::Eight => 127,
        }
    }

    /// Bytes of `channels` codes.
    pub fn bytes(self, channels: usize) -> usize {
        match self {
            Self::Four => channels / 2,
            Self::Eight => channels,
        }
    }
}

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// The channels of a token and head: `x = code * scale`, symmetric, `scale = max(max |x|, MIN_SCALE_RANGE) / signed_max`. 4-bit codes are
    /// stored plus 8, 8-bit ones as two's complement.
    Token,
    /// A channel over this many tokens in a row, the last group possibly fewer: `x = code * scale + zero`, `zero = min x`,
    /// `scale = max(max x - min x, MIN_SCALE_RANGE) / levels`, codes unsigned (KIVI's keys, arXiv:2402.02750).
    Channel(usize),
}

/// A format: bits and what shares a scale. Codes are rounded to the nearest, halves away from zero. No scale is 0: a range below
/// [`crate::MIN_SCALE_RANGE`] counts as that, so a channel of equal values comes back exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Bits of a code.
    pub bits: Bits,
    /// What shares a scale.
    pub grouping: Grouping,
}

/// Extents of a quantisation, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeProblem {
    /// Tokens: the product of all extents but the last two.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// The format.
    pub format: Format,
}

impl CodeProblem {
    /// From the shape `[.., heads, head_dim]` of what is quantised.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for fewer than two extents, [`CoreError::Geometry`] for a head of channels that are not a multiple of 8 or a
    /// group of no tokens.
    pub fn new(shape: &[usize], format: Format) -> Result<Self, CoreError> {
        let &[ref tokens @ .., heads, head_dim] = shape else {
            return Err(CoreError::ShapeMismatch {
                what: "x",
                expected: [0, 0, 0].into(),
                got: shape.into(),
            });
        };
        if !head_dim.is_multiple_of(8) {
            let requirement = "must be a multiple of 8";
            return Err(CoreError::Geometry { field: "head_dim", value: head_dim, requirement });
        }
        if format.grouping == Grouping::Channel(0) {
            let requirement = "must be at least 1";
            return Err(CoreError::Geometry { field: "tokens of a group", value: 0, requirement });
        }
        Ok(Self { tokens: tokens.iter().product(), heads, head_dim, format })
    }

    /// Bytes of all codes.
    pub fn code_bytes(&self) -> usize {
        self.tokens * self.heads * self.format.bits.bytes(self.head_dim)
    }

    /// Shape of the scales (and of the zeros, which only [`Grouping::Channel`] has): `[tokens, heads]`, or `[groups, heads, head_dim]`.
    pub fn scale_shape(&self) -> Vec<usize> {
        match self.format.grouping {
            Grouping::Token => vec![self.tokens, self.heads],
            Grouping::Channel(size) => vec![self.tokens.div_ceil(size), self.heads, self.head_dim],
        }
    }
}
