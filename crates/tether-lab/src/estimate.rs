//! Means, standard errors, and whether a difference stands out from the scatter.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Standard errors between a mean and the ends of its interval. A difference whose interval does not hold 0 is resolved.
const WIDTH: f64 = 2.0;

/// A mean over scenes, runs of tokens or contexts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean; not a number when there is nothing to average.
    pub mean: f64,
    /// The standard error of the mean; none for fewer than two values.
    pub se: Option<f64>,
    /// How many values went in.
    pub n: usize,
}

/// What a paired difference shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// At least two standard errors away from zero.
    Resolved,
    /// Closer to zero than two standard errors.
    NotResolved,
    /// Fewer than two scenes, so there is no standard error to compare with.
    SingleScene,
}

impl Estimate {
    /// Averages `values`, leaving out what is not a finite number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let finite: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let n = finite.len();
        if n == 0 {
            return Self { mean: f64::NAN, se: None, n };
        }
        let mean = finite.iter().sum::<f64>() / n as f64;
        Self { mean, se: standard_error(&finite), n }
    }

    /// The mean of `a - b` over pairs: `a[i]` and `b[i]` are of the same scene.
    ///
    /// Pairing takes out what the scenes differ in among themselves, which is far more than what two
    /// recipes differ in. A pair with a value that is not finite is left out whole.
    pub fn of_differences(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).map(|(a, b)| a - b))
    }

    /// Two standard errors either way; the mean alone where there is no error.
    pub fn interval(&self) -> RangeInclusive<f64> {
        let reach = WIDTH * self.se.unwrap_or(0.0);
        self.mean - reach..=self.mean + reach
    }

    /// -1 or 1 where the difference is resolved, else 0.
    pub fn sign(&self) -> i8 {
        match self.verdict() {
            Verdict::Resolved if self.mean < 0.0 => -1,
            Verdict::Resolved => 1,
            Verdict::NotResolved | Verdict::SingleScene => 0,
        }
    }

    /// The mean and its standard error, to so many digits.
    pub fn with_error(&self, digits: usize) -> String {
        match self.se {
            Some(se) => format!("{:.digits$} ± {se:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }

    /// The same of a difference, with its sign. What has no error says so by an error of 0.
    pub fn signed_with_error(&self, digits: usize) -> String {
        format!("{:+.digits$} ± {:.digits$}", self.mean, self.se.unwrap_or(0.0))
    }

    /// Reads this estimate as a difference from zero.
    pub fn verdict(&self) -> Verdict {
        match self.se {
            None => Verdict::SingleScene,
            // Two recipes that did exactly the same have a difference and an error of zero: no difference.
            Some(se) if self.mean != 0.0 && self.mean.abs() >= WIDTH * se => Verdict::Resolved,
            Some(_) => Verdict::NotResolved,
        }
    }
}

/// The standard error of the mean of `values`; none for fewer than two.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len();
    (n >= 2).then(|| {
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        (variance / n as f64).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error_by_hand() {
        // Deviations -3, -1, 1, 3: squares sum to 20, variance 20/3, error sqrt(20/12).
        let estimate = Estimate::of([2.0, 4.0, 6.0, 8.0]);
        assert_eq!(estimate.mean, 5.0);
        assert_eq!(estimate.n, 4);
        assert!((estimate.se.unwrap() - 1.290_994_448_735_805_6).abs() < 1e-12);
    }

    #[test]
    fn fewer_than_two_values_have_no_error() {
        assert_eq!(Estimate::of([3.0]), Estimate { mean: 3.0, se: None, n: 1 });
        let none = Estimate::of([]);
        assert!(none.mean.is_nan());
        assert_eq!((none.se, none.n), (None, 0));
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        assert_eq!(Estimate::of([1.0, f64::NAN, 3.0, f64::INFINITY]), Estimate::of([1.0, 3.0]));
        assert_eq!(
            Estimate::of_differences(&[5.0, f64::NAN, 6.0], &[1.0, 1.0, 4.0]),
            Estimate { mean: 3.0, se: Some(1.0), n: 2 }
        );
    }

    #[test]
    fn pairing_resolves_what_the_spread_of_scenes_would_hide() {
        let a = [11.0, 21.0, 31.0];
        let b = [10.0, 20.0, 30.0];
        let difference = Estimate::of_differences(&a, &b);
        assert_eq!(difference, Estimate { mean: 1.0, se: Some(0.0), n: 3 });
        assert_eq!(difference.verdict(), Verdict::Resolved);
    }

    #[test]
    fn intervals_and_signs_go_by_two_standard_errors() {
        let of = |mean, se| Estimate { mean, se, n: 4 };
        assert_eq!(of(1.0, Some(0.25)).interval(), 0.5..=1.5);
        assert_eq!(of(1.0, None).interval(), 1.0..=1.0);
        assert_eq!([of(1.0, Some(0.25)), of(-1.0, Some(0.25))].map(|e| e.sign()), [1, -1]);
        assert_eq!([of(1.0, Some(0.75)), of(1.0, None), of(0.0, Some(0.0))].map(|e| e.sign()), [0, 0, 0]);
        assert_eq!(of(1.25, Some(0.5)).with_error(1), "1.2 ± 0.5");
        assert_eq!(of(1.25, None).signed_with_error(2), "+1.25 ± 0.00");
    }

    #[test]
    fn verdicts_turn_at_two_standard_errors() {
        let at = |mean, se| Estimate { mean, se, n: 4 }.verdict();
        assert_eq!(at(2.0, Some(1.0)), Verdict::Resolved);
        assert_eq!(at(-2.0, Some(1.0)), Verdict::Resolved);
        assert_eq!(at(1.99, Some(1.0)), Verdict::NotResolved);
        assert_eq!(at(0.0, Some(0.0)), Verdict::NotResolved);
        assert_eq!(at(5.0, None), Verdict::SingleScene);
    }
}
