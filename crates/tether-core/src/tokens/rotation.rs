//! Rotations of cached keys by positions: 1-D, multimodal and video rotary embeddings alike.

use crate::{CoreError, Pairing, TokenShape};

/// Axes that a position may have: time, height and width.
pub const MAX_AXES: usize = 3;

/// By how much which channels of which tokens turn.
///
/// A rotation moves keys that are stored rotated to another position (`deltas` are new minus old positions), or rotates raw ones
/// (`deltas` are positions). Pair `p` of a rotation is pair `first_pair + p` of the rotary embedding, and turns by
/// `deltas[axes[p]][token / tokens_per_delta] * frequencies[p]` radians; pairs outside the rotation are not touched, so a change of one
/// axis of a video position (arXiv:2503.20314 splits a head into time, height and width) costs that axis's channels only. A pair that moves by
/// 0 keeps its bits unless `scale` changes it.
///
/// An engine must not lose accuracy for far positions: it reduces the angle exactly (a position times a frequency in turns,
/// modulo one) before it takes sine and cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation<'a> {
    /// Which channels form a pair.
    pub pairing: Pairing,
    /// Channels of a head that take part in the rotary embedding, from the first; even.
    pub rotary_dim: usize,
    /// First pair that turns.
    pub first_pair: usize,
    /// Radians per position of each pair that turns.
    pub frequencies: &'a [f64],
    /// Axis of each pair that turns; empty when all are axis 0.
    pub axes: &'a [u8],
    /// For each axis, positions to move by: one entry serves `tokens_per_delta` tokens in a row.
    pub deltas: &'a [&'a [i32]],
    /// Tokens that share an entry of `deltas`: 1 for text, a frame's tokens for the time axis of a video.
    pub tokens_per_delta: usize,
    /// What rotated channels are multiplied by (`YaRN`'s attention factor when raw keys are rotated, else 1).
    pub scale: f32,
}

/// Extents of a [`Rotation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationExtents {
    /// Which channels form a pair.
    pub pairing: Pairing,
    /// Channels of a head that take part in the rotary embedding.
    pub rotary_dim: usize,
    /// First pair that turns.
    pub first_pair: usize,
    /// Pairs that turn.
    pub pairs: usize,
    /// Axes.
    pub axes: usize,
    /// Entries of an axis.
    pub entries: usize,
    /// Tokens that share an entry.
    pub tokens_per_delta: usize,
}

impl Rotation<'_> {
    /// Checks the rotation against itself.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a size out of range, [`CoreError::Count`] for lists that do not fit, [`CoreError::NonFinite`].
    pub fn extents(&self) -> Result<RotationExtents, CoreError> {
        let geometry = |field, value, requirement| Err(CoreError::Geometry { field, value, requirement });
        let pairs = self.frequencies.len();
        if !self.rotary_dim.is_multiple_of(2) {
            return geometry("rotary_dim", self.rotary_dim, "must be even");
        }
        if self.first_pair.checked_add(pairs).is_none_or(|end| end > self.rotary_dim / 2) {
            return geometry("first_pair", self.first_pair, "pairs must lie in rotary_dim");
        }
        if self.tokens_per_delta == 0 {
            return geometry("tokens_per_delta", 0, "must be at least 1");
        }
        if self.deltas.is_empty() || self.deltas.len() > MAX_AXES {
            return geometry("axes", self.deltas.len(), "must be 1, 2 or 3");
        }
        if !self.axes.is_empty() {
            crate::checks::count("axes of pairs", pairs, self.axes.len())?;
        }
        if let Some(&axis) = self.axes.iter().find(|&&a| usize::from(a) >= self.deltas.len()) {
            return geometry("axis", axis.into(), "must have deltas");
        }
        let entries = self.deltas[0].len();
        for axis in self.deltas {
            crate::checks::count("deltas", entries, axis.len())?;
        }
        if let Some(index) = self.frequencies.iter().position(|f| !f.is_finite()) {
            return Err(CoreError::NonFinite { what: "frequencies", index });
        }
        if !self.scale.is_finite() {
            return Err(CoreError::NonFinite { what: "scale", index: 0 });
        }
        let (pairing, rotary_dim, first_pair) = (self.pairing, self.rotary_dim, self.first_pair);
        let (axes, tokens_per_delta) = (self.deltas.len(), self.tokens_per_delta);
        Ok(RotationExtents { pairing, rotary_dim, first_pair, pairs, axes, entries, tokens_per_delta })
    }
}

impl RotationExtents {
    /// The rotation fits keys of this shape.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for heads that are too small, [`CoreError::Count`] for too few or too many deltas.
    pub fn fit(&self, shape: &TokenShape) -> Result<(), CoreError> {
        if self.rotary_dim > shape.head_dim {
            let requirement = "must not exceed head_dim";
            return Err(CoreError::Geometry { field: "rotary_dim", value: self.rotary_dim, requirement });
        }
        crate::checks::count("deltas", shape.tokens.div_ceil(self.tokens_per_delta), self.entries)
    }

    /// The two channels of pair `pair` of the rotation.
    pub fn channels(&self, pair: usize) -> (usize, usize) {
        self.pairing.channels(self.first_pair + pair, self.rotary_dim / 2)
    }
}
