//! TeaCache's calibration.

use super::{Profile, ProfileData, ProfileHeader};
use crate::{ProfileError, RunPlan};

/// Degree of the polynomial.
const DEGREE: usize = 4;

/// Pairs of the probe's relative change and the output's, and the polynomial through them.
#[derive(Clone, Debug)]
pub struct TeaCalibration {
    plan: RunPlan,
    pairs: Vec<(f64, f64)>,
}

impl TeaCalibration {
    /// Nothing measured yet, for runs of `plan`.
    pub fn new(plan: RunPlan) -> Self {
        Self { plan, pairs: Vec::new() }
    }

    /// Adds the relative change of the probe from one step to the next, and the output's over the same step. What is not finite is left out.
    pub fn push(&mut self, probe: f64, output: f64) {
        if probe.is_finite() && output.is_finite() {
            self.pairs.push((probe, output));
        }
    }

    /// The profile: the polynomial of degree 4 of least squares, fitted over changes scaled to 1.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] when there are not enough different changes to fit one.
    pub fn profile(&self, prompts: &str) -> Result<Profile, ProfileError> {
        let scale = self.pairs.iter().fold(0f64, |m, p| m.max(p.0));
        let few = || ProfileError::Calibration("too few different changes for a polynomial".to_owned());
        if self.pairs.len() <= DEGREE || scale <= 0.0 {
            return Err(few());
        }
        let scaled: Vec<(f64, f64)> = self.pairs.iter().map(|(x, y)| (x / scale, *y)).collect();
        let fitted = least_squares(&scaled).ok_or_else(few)?;
        let polynomial = (0..=DEGREE).rev().map(|power| fitted[power] / scale.powi(power as i32)).collect();
        let settings = format!("{} changes, the largest {scale}", self.pairs.len());
        let header = ProfileHeader::new("teacache", &self.plan, prompts, &settings);
        let profile = Profile { header, data: ProfileData::Tea { polynomial } };
        profile.validate()?;
        Ok(profile)
    }
}

/// Coefficients, lowest power first, by modified Gram-Schmidt: normal equations of powers lose half of the digits.
fn least_squares(points: &[(f64, f64)]) -> Option<[f64; DEGREE + 1]> {
    let mut columns: Vec<Vec<f64>> =
        (0..=DEGREE).map(|p| points.iter().map(|(x, _)| x.powi(p as i32)).collect()).collect();
    let mut rest: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
    let (mut r, mut z) = ([[0f64; DEGREE + 1]; DEGREE + 1], [0f64; DEGREE + 1]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for j in 0..=DEGREE {
        let (done, open) = columns.split_at_mut(j + 1);
        let q = &mut done[j];
        let length = dot(q, q).sqrt();
        if length < 1e-9 * (points.len() as f64).sqrt() {
            return None;
        }
        r[j][j] = length;
        q.iter_mut().for_each(|x| *x /= length);
        for (k, column) in open.iter_mut().enumerate() {
            let along = dot(q, column);
            r[j][j + 1 + k] = along;
            column.iter_mut().zip(&*q).for_each(|(c, q)| *c -= along * q);
        }
        z[j] = dot(q, &rest);
        rest.iter_mut().zip(&*q).for_each(|(y, q)| *y -= z[j] * q);
    }
    let mut coefficients = [0f64; DEGREE + 1];
    for j in (0..=DEGREE).rev() {
        let known: f64 = (j + 1..=DEGREE).map(|k| r[j][k] * coefficients[k]).sum();
        coefficients[j] = (z[j] - known) / r[j][j];
    }
    Some(coefficients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polynomial_comes_back() {
        let want = [733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896];
        let plan = RunPlan::new("m", "s", "r", &[1.0, 0.5, 0.0]);
        let mut fit = TeaCalibration::new(plan);
        for i in 0..60 {
            let x = f64::from(i) * 0.004;
            fit.push(x, want.iter().fold(0.0, |y, c| y * x + c));
        }
        fit.push(f64::NAN, 1.0);
        let ProfileData::Tea { polynomial } = fit.profile("none").unwrap().data else { unreachable!() };
        for (got, want) in polynomial.iter().zip(want) {
            assert!((got - want).abs() < 1e-6 * want.abs(), "{polynomial:?}");
        }
    }

    #[test]
    fn equal_changes_are_refused() {
        let mut fit = TeaCalibration::new(RunPlan::new("m", "s", "r", &[1.0, 0.0]));
        for _ in 0..20 {
            fit.push(0.1, 0.2);
        }
        assert!(matches!(fit.profile("none"), Err(ProfileError::Calibration(_))));
    }
}
