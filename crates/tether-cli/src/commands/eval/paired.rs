//! Means of differences, and how certain they are.

use crate::artefacts::standard_error;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    /// 0 where there are not two samples.
    pub(super) error: f64,
}

impl Estimate {
    /// Of independent samples.
    pub(super) fn of(samples: &[f64]) -> Self {
        Self { mean: mean(samples), error: standard_error(samples).unwrap_or(0.0) }
    }

    /// Of the differences between samples that belong together.
    pub(super) fn of_differences(own: &[f64], other: &[f64]) -> Self {
        let differences: Vec<f64> = own.iter().zip(other).map(|(own, other)| own - other).collect();
        Self::of(&differences)
    }

    /// -1 or 1 where the mean is more than two standard errors away from 0, else 0.
    pub(super) fn sign(self) -> i8 {
        if self.error == 0.0 || self.mean.abs() <= 2.0 * self.error {
            return 0;
        }
        if self.mean < 0.0 { -1 } else { 1 }
    }
}

/// The mean of what there is; 0 of nothing.
pub(super) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Means of whole runs of `length`, which are nearly independent where neighbours are not.
pub(super) fn runs_of(x: &[f64], length: usize) -> Vec<f64> {
    x.chunks_exact(length).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_sample() {
        let differences: Vec<f64> = [1.0, 3.0, 2.0].iter().flat_map(|&x| [x; 32]).collect();
        let samples = runs_of(&differences, 32);
        assert_eq!(samples, [1.0, 3.0, 2.0]);
        let estimate = Estimate::of(&samples);
        assert!((estimate.mean - 2.0).abs() < 1e-12);
        assert!((estimate.error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::of(&[0.5]), Estimate { mean: 0.5, error: 0.0 });
        assert!(runs_of(&[0.5; 20], 32).is_empty());
    }

    #[test]
    fn only_what_is_resolved_has_a_sign() {
        let own = [1.0, 1.1, 0.9, 1.0];
        assert_eq!(Estimate::of_differences(&own, &[0.0; 4]).sign(), 1);
        assert_eq!(Estimate::of_differences(&[0.0; 4], &own).sign(), -1);
        assert_eq!(Estimate::of_differences(&own, &[2.0, 0.1, 1.9, 0.0]).sign(), 0);
        assert_eq!(Estimate::of(&[5.0]).sign(), 0);
    }
}
