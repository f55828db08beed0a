//! What codes of a layer's heads are relative to.

use std::sync::Arc;

use half::f16;
use tether_core::{CoreError, HostTensor, checks};

use super::{HadamardRotation, SphericalFormat, row};

/// A mean for each head and the rotation of them all. Codes mean nothing without the frame that they were made in, so it stays as long as any of them.
#[derive(Clone, Debug, PartialEq)]
pub struct SphericalFrame {
    heads: usize,
    means: Vec<f16>,
    rotation: Arc<HadamardRotation>,
}

impl SphericalFrame {
    /// From means `[heads, head_dim]`, which are rounded to `f16`.
    ///
    /// # Errors
    /// [`CoreError::Count`], [`CoreError::NonFinite`] for a mean that no `f16` holds.
    pub fn new(heads: usize, head_dim: usize, means: &[f32], seed: u64) -> Result<Self, CoreError> {
        Self::in_rotation(heads, means, Arc::new(HadamardRotation::new(head_dim, seed)))
    }

    /// From means and a rotation that other frames have too: it is the same for all of them, and need not be stored more than once.
    ///
    /// # Errors
    /// As [`SphericalFrame::new`].
    pub fn in_rotation(
        heads: usize,
        means: &[f32],
        rotation: Arc<HadamardRotation>,
    ) -> Result<Self, CoreError> {
        checks::count("means", heads.saturating_mul(rotation.head_dim()), means.len())?;
        let means: Vec<f16> = means.iter().map(|&m| f16::from_f32(m)).collect();
        if let Some(index) = means.iter().position(|m| !m.is_finite()) {
            return Err(CoreError::NonFinite { what: "means", index });
        }
        Ok(Self { heads, means, rotation })
    }

    /// Means of 0: codes of vectors as they are.
    ///
    /// # Errors
    /// [`CoreError::SizeOverflow`].
    pub fn uncentred(heads: usize, head_dim: usize, seed: u64) -> Result<Self, CoreError> {
        let len = heads.checked_mul(head_dim).filter(|&n| n < isize::MAX as usize / 4);
        let len =
            len.ok_or_else(|| CoreError::SizeOverflow { what: "means", factors: [heads, head_dim].into() })?;
        Self::new(heads, head_dim, &vec![0.0; len], seed)
    }

    /// The means of `x` `[.., heads, head_dim]` over all but the last two axes; 0 without tokens.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for fewer than two extents, [`CoreError::NonFinite`].
    pub fn centred(x: &HostTensor, seed: u64) -> Result<Self, CoreError> {
        let head_dim = x.shape().last().copied().unwrap_or(0);
        Self::centred_in(x, Arc::new(HadamardRotation::new(head_dim, seed)))
    }

    /// [`SphericalFrame::centred`], in a rotation that other frames have too.
    ///
    /// # Errors
    /// As [`SphericalFrame::centred`]; [`CoreError::Count`] for a rotation of other channels.
    pub fn centred_in(x: &HostTensor, rotation: Arc<HadamardRotation>) -> Result<Self, CoreError> {
        let &[.., heads, head_dim] = x.shape() else {
            return Err(CoreError::ShapeMismatch {
                what: "x",
                expected: [0, 0, 0].into(),
                got: x.shape().into(),
            });
        };
        let channels = heads * head_dim;
        let mut sums = vec![0f64; channels];
        let tokens = x.len() / channels.max(1);
        for token in 0..tokens {
            let row = x.data().widened(token * channels..(token + 1) * channels);
            sums.iter_mut().zip(row.iter()).for_each(|(s, &x)| *s += f64::from(x));
        }
        let means: Vec<f32> = sums.iter().map(|s| (s / tokens.max(1) as f64) as f32).collect();
        Self::in_rotation(heads, &means, rotation)
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Channels of a head.
    pub fn head_dim(&self) -> usize {
        self.rotation.head_dim()
    }

    /// Means `[heads, head_dim]`.
    pub fn means(&self) -> &[f16] {
        &self.means
    }

    /// A head's mean, widened.
    pub fn mean(&self, head: usize) -> impl Iterator<Item = f32> + '_ {
        self.means[head * self.head_dim()..][..self.head_dim()].iter().map(|m| m.to_f32())
    }

    /// Where the rotation's signs come from.
    pub fn seed(&self) -> u64 {
        self.rotation.seed()
    }

    /// The rotation.
    pub fn rotation(&self) -> &HadamardRotation {
        &self.rotation
    }

    /// Bytes of the means, which are all that a frame stores for itself: rotations are shared.
    pub fn bytes(&self) -> usize {
        2 * self.means.len()
    }

    /// The frame is of `heads` heads of `head_dim` channels; `what` names it.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn holds(&self, what: &'static str, heads: usize, head_dim: usize) -> Result<(), CoreError> {
        Self::extents(what, [heads, head_dim], [self.heads, self.head_dim()])
    }

    /// A frame of `got` heads and channels, wherever it is, is one of `expected`; `what` names it.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn extents(what: &'static str, expected: [usize; 2], got: [usize; 2]) -> Result<(), CoreError> {
        if expected != got {
            return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() });
        }
        Ok(())
    }

    /// Rotates a query of a head, and returns its product with the head's mean: what its logits with all rows of the head have in common.
    pub fn enter(&self, head: usize, q: &mut [f32]) -> f32 {
        let shared = q.iter().zip(self.mean(head)).map(|(q, m)| q * m).sum();
        self.rotation().rotate(q);
        shared
    }

    /// Codes one row of a head, which is centred and rotated on the way, into the bytes of a row, and returns its radius.
    ///
    /// # Panics
    /// For a head that the frame does not have.
    pub fn encode_row(&self, head: usize, x: &mut [f32], format: SphericalFormat, into: &mut [u8]) -> f16 {
        x.iter_mut().zip(self.mean(head)).for_each(|(x, m)| *x -= m);
        f16::from_f32(row::encode(x, self.rotation(), format, into))
    }

    /// Brings a sum of a head's rows, whose weights come to `total`, back to the coordinates of what was coded.
    pub fn leave(&self, head: usize, sum: &mut [f32], total: f32) {
        self.rotation().rotate_back(sum);
        sum.iter_mut().zip(self.mean(head)).for_each(|(s, m)| *s += total * m);
    }
}
