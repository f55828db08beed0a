//! The norm of a Llama's blocks, fused with the addition before it.

use pulp::{Arch, Simd, WithSimd};

use crate::norm::lane_sum;

/// `h += delta`, then `out = h / rms(h) * weight`, row by row; `delta` may be empty.
pub(crate) fn add_rms_norm(
    arch: Arch,
    h: &mut [f32],
    delta: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    arch.dispatch(AddRmsNorm { h, delta, weight, eps, out });
}

struct AddRmsNorm<'a> {
    h: &'a mut [f32],
    delta: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for AddRmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let dim = self.weight.len();
        self.h.iter_mut().zip(self.delta).for_each(|(h, d)| *h += d);
        for (h, out) in self.h.chunks_exact(dim).zip(self.out.chunks_exact_mut(dim)) {
            let inv_rms = 1.0 / (lane_sum(h, |x| x * x) / dim as f32 + self.eps).sqrt();
            for ((o, x), w) in out.iter_mut().zip(h).zip(self.weight) {
                *o = x * inv_rms * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 37;

    fn series(n: usize, a: f32, b: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * a + b).sin() * 1.5 + 0.3).collect()
    }

    #[test]
    fn add_rms_norm_matches_double_precision() {
        let (delta, weight) = (series(2 * DIM, 0.7, 0.1), series(DIM, 1.1, 0.2));
        let before = series(2 * DIM, 0.31, 0.0);
        let (mut h, mut out) = (before.clone(), vec![f32::NAN; 2 * DIM]);
        add_rms_norm(Arch::new(), &mut h, &delta, &weight, 1e-3, &mut out);
        for row in 0..2 {
            let sum: Vec<f64> =
                (row * DIM..(row + 1) * DIM).map(|i| f64::from(before[i]) + f64::from(delta[i])).collect();
            let rms = (sum.iter().map(|x| x * x).sum::<f64>() / DIM as f64 + 1e-3).sqrt();
            for i in 0..DIM {
                assert!((f64::from(h[row * DIM + i]) - sum[i]).abs() < 1e-6);
                let want = sum[i] / rms * f64::from(weight[i]);
                assert!((f64::from(out[row * DIM + i]) - want).abs() < 2e-6);
            }
        }
        let kept = h.clone();
        add_rms_norm(Arch::new(), &mut h, &[], &weight, 1e-3, &mut vec![0.0; 2 * DIM]);
        assert_eq!(h, kept);
    }
}
