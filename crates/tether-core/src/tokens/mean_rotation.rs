//! The mean of a rotation over positions.

use crate::{CoreError, Pairing};

/// The mean of the rotations to several positions: `x_a' = c x_a - s x_b` and `x_b' = c x_b + s x_a` of each pair of
/// channels `a` and `b`; channels beyond the rotation stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanRotation {
    /// The other channel of each channel's pair; the channel itself where it is not rotated.
    partners: Vec<u32>,
    /// What a channel, and what the other one of its pair, is multiplied by.
    factors: Vec<[f64; 2]>,
}

impl MeanRotation {
    /// Over `count` positions from `first` on: `frequencies` are radians per position, and `factor` is what rotated
    /// channels are longer by.
    ///
    /// # Errors
    /// [`CoreError::Count`] for more frequencies than `dim` channels have pairs.
    pub fn new(
        (frequencies, pairing): (&[f64], Pairing),
        factor: f32,
        (first, count): (i64, usize),
        dim: usize,
    ) -> Result<Self, CoreError> {
        let pairs = frequencies.len();
        if 2 * pairs > dim {
            return Err(CoreError::Count { what: "rotary frequencies", expected: dim / 2, got: pairs });
        }
        let mut partners: Vec<u32> = (0..dim as u32).collect();
        let mut factors = vec![[1.0, 0.0]; dim];
        for (pair, &frequency) in frequencies.iter().enumerate() {
            let angles = (0..count as i64).map(|i| (first + i) as f64 * frequency);
            let sums = angles.fold([0.0, 0.0], |[c, s], a: f64| [c + a.cos(), s + a.sin()]);
            let [cos, sin] = sums.map(|s| s * f64::from(factor) / count.max(1) as f64);
            let (a, b) = pairing.channels(pair, pairs);
            (partners[a], partners[b]) = (b as u32, a as u32);
            (factors[a], factors[b]) = ([cos, -sin], [cos, sin]);
        }
        Ok(Self { partners, factors })
    }

    /// Channels.
    pub fn dim(&self) -> usize {
        self.partners.len()
    }

    /// The other channel of each channel's pair.
    pub fn partners(&self) -> &[u32] {
        &self.partners
    }

    /// What each channel, and what the other one of its pair, is multiplied by.
    pub fn factors(&self) -> &[[f64; 2]] {
        &self.factors
    }

    /// A vector, rotated.
    pub fn vector(&self, x: &[f64]) -> Vec<f64> {
        let of = |(c, (&partner, [own, other])): (usize, (&u32, &[f64; 2]))| {
            own * x[c] + other * x[partner as usize]
        };
        self.partners.iter().zip(&self.factors).enumerate().map(of).collect()
    }

    /// `R m R^T` of a matrix `[dim, dim]`.
    pub fn matrix(&self, m: &[f64]) -> Vec<f64> {
        let dim = self.dim();
        let transposed = |m: &[f64]| (0..dim * dim).map(|i| m[i % dim * dim + i / dim]).collect::<Vec<_>>();
        let rows =
            |m: &[f64]| m.chunks_exact(dim.max(1)).flat_map(|row| self.vector(row)).collect::<Vec<_>>();
        // Rows of `m R^T` are rotated rows of `m`; columns are rotated the same way.
        transposed(&rows(&transposed(&rows(m))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_rotation_where_there_is_one_position_only() {
        let rotation = MeanRotation::new((&[0.5], Pairing::Half), 1.0, (3, 1), 3).expect("it fits");
        let (c, s) = (1.5f64.cos(), 1.5f64.sin());
        let close = |got: &[f64], want: &[f64]| {
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 1e-12, "{got:?} for {want:?}"));
        };
        close(&rotation.vector(&[1.0, 0.0, 7.0]), &[c, s, 7.0]);
        close(&rotation.vector(&[0.0, 1.0, 7.0]), &[-s, c, 7.0]);
        // A matrix of one vector's products with itself is that of the rotated one.
        let x = [2.0, -1.0, 0.5];
        let outer = |x: &[f64]| x.iter().flat_map(|a| x.iter().map(move |b| a * b)).collect::<Vec<_>>();
        close(&rotation.matrix(&outer(&x)), &outer(&rotation.vector(&x)));
        let tight = MeanRotation::new((&[0.5, 0.1], Pairing::Half), 1.0, (3, 1), 3);
        assert!(matches!(tight, Err(CoreError::Count { what: "rotary frequencies", .. })));
    }
}
