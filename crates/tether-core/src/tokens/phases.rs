//! Cosines and sines of rotations, exact for any position.

use crate::{CoreError, Rotation, RotationExtents};

/// A [`Rotation`] as cosines and sines: once per pair and position of its axis, for every head of every token.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationPhases {
    extents: RotationExtents,
    axes: Vec<AxisPhases>,
}

/// The pairs that turn with one axis.
#[derive(Clone, Debug, PartialEq)]
struct AxisPhases {
    pairs: Vec<u32>,
    /// The row of each entry; [`STILL`] where nothing changes.
    rows: Vec<u32>,
    /// `[rows, pairs]`.
    phases: Vec<[f32; 2]>,
}

const STILL: u32 = u32::MAX;

impl AxisPhases {
    fn new(rotation: &Rotation<'_>, axis: usize) -> Result<Self, CoreError> {
        let of = |pair: usize| rotation.axes.get(pair).map_or(0, |&a| usize::from(a));
        let pairs: Vec<u32> =
            (0..rotation.frequencies.len()).filter(|&p| of(p) == axis).map(|p| p as u32).collect();
        let deltas = rotation.deltas[axis];
        let turns = |delta: i32| delta != 0 || rotation.scale != 1.0;
        let (lowest, highest) = deltas.iter().fold((i32::MAX, i32::MIN), |(a, b), &d| (a.min(d), b.max(d)));
        let span = (i64::from(highest) - i64::from(lowest) + 1).max(0) as usize;
        // Tokens of a frame share rows and columns, and those of a text that moves its distance. Where positions lie far apart each has a row.
        let shared = span <= deltas.len();
        let row = |(entry, &delta): (usize, &i32)| {
            let row = if shared { (i64::from(delta) - i64::from(lowest)) as usize } else { entry };
            if turns(delta) { row as u32 } else { STILL }
        };
        let rows = deltas.iter().enumerate().map(row).collect();
        let positions = if shared { span } else { deltas.len() };
        let len = crate::tensor::element_count(&[positions, pairs.len()])?;
        let mut phases = Vec::new();
        phases
            .try_reserve_exact(len)
            .map_err(|_| CoreError::OutOfMemory { bytes: len * size_of::<[f32; 2]>() })?;
        let scale = f64::from(rotation.scale);
        let mut add = |delta: i64| {
            phases.extend(pairs.iter().map(|&pair| {
                let (sin, cos) = sin_cos_of_product(delta as f64, rotation.frequencies[pair as usize]);
                [(scale * cos) as f32, (scale * sin) as f32]
            }));
        };
        if shared {
            (0..span as i64).for_each(|row| add(i64::from(lowest) + row));
        } else {
            deltas.iter().for_each(|&delta| add(i64::from(delta)));
        }
        Ok(Self { pairs, rows, phases })
    }
}

impl RotationPhases {
    /// The phases of `rotation`.
    ///
    /// # Errors
    /// Those of [`Rotation::extents`]; [`CoreError::OutOfMemory`].
    pub fn new(rotation: &Rotation<'_>) -> Result<Self, CoreError> {
        let extents = rotation.extents()?;
        let axes = (0..extents.axes).map(|axis| AxisPhases::new(rotation, axis)).collect::<Result<_, _>>()?;
        Ok(Self { extents, axes })
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
        let entry = token / self.extents.tokens_per_delta;
        for axis in &self.axes {
            let row = axis.rows[entry];
            if row == STILL {
                continue;
            }
            let phases = &axis.phases[row as usize * axis.pairs.len()..][..axis.pairs.len()];
            for (&pair, &[cos, sin]) in axis.pairs.iter().zip(phases) {
                let (i, j) = self.extents.channels(pair as usize);
                let (a, b) = (widen(head[i]), widen(head[j]));
                head[i] = narrow(a * cos - b * sin);
                head[j] = narrow(a * sin + b * cos);
            }
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
