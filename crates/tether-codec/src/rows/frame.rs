//! What the codes of a head have in common.

use crate::SphericalFrame;
use crate::comparison::SphericalCodebooks;

/// What codes are relative to. Codes mean nothing without the frame that they were made in, so it stays as long as any of them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RowFrame {
    /// Nothing: codes carry all that they need.
    Plain {
        /// Channels.
        head_dim: usize,
    },
    /// A mean and a rotation, of one head.
    Spherical(SphericalFrame),
    /// Trained directions.
    Published(SphericalCodebooks),
}

impl RowFrame {
    /// Channels of a row.
    pub fn head_dim(&self) -> usize {
        match self {
            Self::Plain { head_dim } => *head_dim,
            Self::Spherical(frame) => frame.head_dim(),
            Self::Published(books) => books.head_dim(),
        }
    }

    /// Bytes of means or directions.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain { .. } => 0,
            Self::Spherical(frame) => frame.bytes(),
            Self::Published(books) => books.bytes(),
        }
    }

    /// What is taken off rows before they are coded, `[head_dim]`.
    pub fn mean(&self) -> Vec<f32> {
        match self {
            Self::Plain { .. } | Self::Published(_) => vec![0.0; self.head_dim()],
            Self::Spherical(frame) => frame.mean(0).collect(),
        }
    }

    /// Takes queries `[rows, head_dim]` to the coordinates in which codes are read, and returns what each query's logits with all rows of the frame have
    /// in common beside that: softmax does not see it, but it goes into the log-sum-exp before results of other frames are merged.
    pub fn enter(&self, queries: &mut [f32]) -> Vec<f32> {
        let enter = |q: &mut [f32]| match self {
            Self::Plain { .. } | Self::Published(_) => 0.0,
            Self::Spherical(frame) => frame.enter(0, q),
        };
        queries.chunks_exact_mut(self.head_dim().max(1)).map(enter).collect()
    }

    /// Brings weighted means of rows `[rows, head_dim]`, whose weights have the sum 1, back to the coordinates of what was coded.
    pub fn leave(&self, means: &mut [f32]) {
        let Self::Spherical(frame) = self else { return };
        for x in means.chunks_exact_mut(self.head_dim().max(1)) {
            frame.leave(0, x, 1.0);
        }
    }
}
