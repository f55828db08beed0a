//! Softmax of whole rows.

use super::exp;

/// Turns each row of `scores` (`columns` long, at least 1) into weights that sum to 1, and returns the logarithm of each row's sum of
/// exponentials. A row that holds NaN or a positive infinity becomes NaN.
pub fn softmax_rows(scores: &mut [f32], columns: usize) -> Vec<f32> {
    let arch = pulp::Arch::new();
    scores.chunks_exact_mut(columns).map(|row| arch.dispatch(SoftmaxRow(row))).collect()
}

struct SoftmaxRow<'a>(&'a mut [f32]);

const LANES: usize = 16;

// A type with an inlined method and not a closure, whose call is not always inlined into the function that has the vector
// instructions.
impl pulp::WithSimd for SoftmaxRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> f32 {
        // Independent lanes, because a float reduction in order cannot be vectorised; they also lose less of a long row's tail.
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (wide, rest) = self.0.as_chunks::<LANES>();
        for chunk in wide {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let highest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
        let mut lanes = [0f32; LANES];
        let (wide, rest) = self.0.as_chunks_mut::<LANES>();
        for chunk in wide {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - highest);
                *lane += *x;
            }
        }
        let mut total: f32 = lanes.iter().sum();
        for x in rest {
            *x = exp(*x - highest);
            total += *x;
        }
        let scale = 1.0 / total;
        self.0.iter_mut().for_each(|x| *x *= scale);
        highest + total.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::softmax_rows;

    #[test]
    fn agrees_with_the_definition() {
        for columns in [1, 5, 16, 37, 4000] {
            let scores: Vec<f32> = (0..3 * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 3.0).collect();
            let mut got = scores.clone();
            let lse = softmax_rows(&mut got, columns);
            for (row, (got, lse)) in scores.chunks(columns).zip(got.chunks(columns).zip(lse)) {
                let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                assert!((f64::from(lse) - total.ln()).abs() < 1e-5, "{lse} for {}", total.ln());
                for (&x, &got) in row.iter().zip(got) {
                    let expected = f64::from(x).exp() / total;
                    assert!(
                        (f64::from(got) - expected).abs() < 1e-6 * expected + 1e-12,
                        "{got} for {expected}"
                    );
                }
            }
        }
    }
}
