//! What a policy decides.

use std::sync::Arc;

/// Whether a step is computed.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Run the model, and hand what it made to the cache.
    Compute,
    /// Take what is cached, corrected.
    Reuse(Correction),
}

impl Verdict {
    /// Reuse of what is cached as it is.
    pub const HOLD: Self = Self::Reuse(Correction::Hold);

    /// Whether the step is computed.
    pub fn is_compute(&self) -> bool {
        matches!(self, Self::Compute)
    }
}

/// How a cached value becomes this step's.
#[derive(Clone, Debug, PartialEq)]
pub enum Correction {
    /// As it is.
    Hold,
    /// Extrapolated in the step's number from the last computed values: `sum_j D_j s^j / j!` with backward differences `D_j`, or with
    /// Newton's `s (s + h) .. / j!`, which is exact for polynomials of degree `order` when computed steps are `h` apart.
    Taylor {
        /// Highest order; as many are used as values have been computed.
        order: u8,
        /// Newton's form.
        newton: bool,
    },
    /// `A1 + w (A1 - A0)` of the last two computed values.
    Linear {
        /// The weight `w`.
        weight: f32,
    },
    /// Multiplied by a number.
    Scale(f32),
    /// `(1 - a) y - b` of the whole output, not of the cached part alone. Element `i` uses entry `i % len`: one entry for all, or one
    /// per innermost channel.
    Affine {
        /// Slopes.
        a: Arc<[f32]>,
        /// Offsets, as many.
        b: Arc<[f32]>,
    },
}

impl Correction {
    /// Orders of differences beyond the value itself that this reads.
    pub fn orders(&self) -> u8 {
        match self {
            Self::Taylor { order, .. } => *order,
            Self::Linear { .. } => 1,
            _ => 0,
        }
    }

    /// Weights of the cached value and its backward differences, `elapsed` steps after the last computed one, where computed steps are
    /// `gap` apart.
    pub fn weights(&self, elapsed: f32, gap: f32, available: usize) -> smallvec::SmallVec<[f32; 5]> {
        let mut weights = smallvec::smallvec![1.0];
        match self {
            Self::Taylor { order, newton } => {
                let mut weight = 1.0;
                for j in 0..usize::from(*order).min(available.saturating_sub(1)) {
                    let rise = if *newton { elapsed + j as f32 * gap } else { elapsed };
                    weight *= rise / (j + 1) as f32;
                    weights.push(weight);
                }
            }
            // The first difference is per step, and the formula's spans the gap.
            Self::Linear { weight } if available > 1 => weights.push(weight * gap),
            Self::Scale(scale) => weights[0] = *scale,
            Self::Linear { .. } | Self::Hold | Self::Affine { .. } => {}
        }
        weights
    }
}
