//! Cosines and sines of rotations, exact for any position.

use crate::{CoreError, Rotation, RotationExtents};

/// A [`Rotation`] as cosines and sines: once per entry and pair, for every head of every token.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationPhases {
    extents: RotationExtents,
    /// `[entries, pairs]`; `None` where nothing changes.
    phases: Vec<Option<[f32; 2]>>,
}

impl RotationPhases {
    /// The phases of `rotation`.
    ///
    /// # Errors
    /// Those of [`Rotation::extents`]; [`CoreError::OutOfMemory`].
    pub fn new(rotation: &Rotation<'_>) -> Result<Self, CoreError> {
        let extents = rotation.extents()?;
        let len = crate::tensor::element_count(&[extents.entries, extents.pairs])?;
        let scale = f64::from(rotation.scale);
        let mut phases = Vec::new();
        phases
            .try_reserve_exact(len)
            .map_err(|_| CoreError::OutOfMemory { bytes: len * size_of::<Option<[f32; 2]>>() })?;
        for entry in 0..extents.entries {
            for (pair, &frequency) in rotation.frequencies.iter().enumerate() {
                let axis = rotation.axes.get(pair).copied().unwrap_or(0);
                let delta = rotation.deltas[usize::from(axis)][entry];
                phases.push((delta != 0 || rotation.scale != 1.0).then(|| {
                    let (sin, cos) = sin_cos_of_product(f64::from(delta), frequency);
                    [(scale * cos) as f32, (scale * sin) as f32]
                }));
            }
        }
        Ok(Self { extents, phases })
    }

    /// Extents of the rotation.
    pub fn extents(&self) -> &RotationExtents {
        &self.extents
    }

    /// Rotates one head of token `token`, stored in any type: `widen` reads a number and `narrow` rounds one.
    ///
    /// # Panics
    /// When the token or the head's length does not fit ([`RotationExtents::fit`]); engines check that once per call.
    #[inline]
    pub fn rotate<T: Copy>(
        &self,
        token: usize,
        head: &mut [T],
        widen: impl Fn(T) -> f32,
        narrow: impl Fn(f32) -> T,
    ) {
        let entry = token / self.extents.tokens_per_delta * self.extents.pairs;
        for (pair, phase) in self.phases[entry..][..self.extents.pairs].iter().enumerate() {
            let Some([cos, sin]) = *phase else { continue };
            let (i, j) = self.extents.channels(pair);
            let (a, b) = (widen(head[i]), widen(head[j]));
            head[i] = narrow(a * cos - b * sin);
            head[j] = narrow(a * sin + b * cos);
        }
    }
}

/// Sine and cosine of `position * frequency` radians as if the product had not been rounded: a product of thousands of turns loses
/// digits that its sine needs.
fn sin_cos_of_product(position: f64, frequency: f64) -> (f64, f64) {
    let angle = position * frequency;
    // What rounding took away, exactly: below 1e-6 for any `i32`, so the first term of its series is enough for an `f32`.
    let lost = position.mul_add(frequency, -angle);
    // The standard library reduces an angle of any size exactly.
    let (sin, cos) = angle.sin_cos();
    (sin + lost * cos, cos - lost * sin)
}

#[cfg(test)]
mod tests {
    use super::sin_cos_of_product;

    #[test]
    fn far_angles_keep_their_digits() {
        // A frequency that is a whole turn but for 2^-30 of a radian: the angle is known without a product.
        let frequency = std::f64::consts::TAU + 2f64.powi(-30);
        // The frequency's own rounding error, which the expected angle shares.
        let off = (frequency - std::f64::consts::TAU) - 2.449_293_598_294_706_4e-16;
        for position in [1.0, 131_072.0, -1_000_003.0, f64::from(i32::MAX)] {
            let (sin, cos) = sin_cos_of_product(position, frequency);
            let angle = position * off;
            assert!((sin - angle.sin()).abs() < 1e-12, "{position}: {sin} for {}", angle.sin());
            assert!((cos - angle.cos()).abs() < 1e-12, "{position}: {cos} for {}", angle.cos());
        }
    }
}
