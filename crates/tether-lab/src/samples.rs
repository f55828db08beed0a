//! Samples that are independent, out of numbers that are not.

/// The mean of all; 0 of nothing.
pub(crate) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Means of whole runs of `length`, which are nearly independent where neighbours are not.
pub(crate) fn runs_of(x: &[f64], length: usize) -> Vec<f64> {
    x.chunks_exact(length).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::Estimate;

    #[test]
    fn neighbours_are_one_sample() {
        let differences: Vec<f64> = [1.0, 3.0, 2.0].iter().flat_map(|&x| [x; 32]).collect();
        let samples = runs_of(&differences, 32);
        assert_eq!(samples, [1.0, 3.0, 2.0]);
        let estimate = Estimate::of(samples);
        assert!((estimate.mean - 2.0).abs() < 1e-12);
        assert!((estimate.se.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::of([0.5]), Estimate { mean: 0.5, se: None, n: 1 });
        assert!(runs_of(&[0.5; 20], 32).is_empty());
    }

    #[test]
    fn only_what_is_resolved_has_a_sign() {
        let own = [1.0, 1.1, 0.9, 1.0];
        assert_eq!(Estimate::of_differences(&own, &[0.0; 4]).sign(), 1);
        assert_eq!(Estimate::of_differences(&[0.0; 4], &own).sign(), -1);
        assert_eq!(Estimate::of_differences(&own, &[2.0, 0.1, 1.9, 0.0]).sign(), 0);
        assert_eq!(Estimate::of([5.0]).sign(), 0);
    }
}
