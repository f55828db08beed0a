//! Extents and memory order of a tensor of tokens.

use crate::CoreError;

/// Memory order of a tensor of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenLayout {
    /// `[tokens, heads, head_dim]`.
    Nhd,
    /// `[heads, tokens, head_dim]`.
    Hnd,
}

/// Extents of a dense tensor of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenShape {
    /// Tokens.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Memory order.
    pub layout: TokenLayout,
}

impl TokenShape {
    /// Reads `shape`, three extents in the order of `layout`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] names `what` when there are not three.
    pub fn of(what: &'static str, shape: &[usize], layout: TokenLayout) -> Result<Self, CoreError> {
        let &[outer, middle, head_dim] = shape else {
            return Err(CoreError::ShapeMismatch { what, expected: [0, 0, 0].into(), got: shape.into() });
        };
        let (tokens, heads) = match layout {
            TokenLayout::Nhd => (outer, middle),
            TokenLayout::Hnd => (middle, outer),
        };
        Ok(Self { tokens, heads, head_dim, layout })
    }

    /// The extents in memory order.
    pub fn dims(&self) -> [usize; 3] {
        match self.layout {
            TokenLayout::Nhd => [self.tokens, self.heads, self.head_dim],
            TokenLayout::Hnd => [self.heads, self.tokens, self.head_dim],
        }
    }

    /// Elements from a token to the next, in the same head.
    pub fn token_stride(&self) -> usize {
        match self.layout {
            TokenLayout::Nhd => self.heads * self.head_dim,
            TokenLayout::Hnd => self.head_dim,
        }
    }

    /// Elements from a head to the next, in the same token.
    pub fn head_stride(&self) -> usize {
        match self.layout {
            TokenLayout::Nhd => self.head_dim,
            TokenLayout::Hnd => self.tokens * self.head_dim,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tokens * self.heads * self.head_dim
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
