//! Activations over slices.

use pulp::{Arch, Simd, WithSimd};
use tether_dense::exp;

/// `x / (1 + e^-x)` in place.
pub(crate) fn silu(arch: Arch, values: &mut [f32]) {
    arch.dispatch(Silu(values));
}

/// Adds `bias` to every row of `rows` and applies the tanh form of GELU, in place.
pub(crate) fn bias_gelu_tanh(arch: Arch, rows: &mut [f32], bias: &[f32]) {
    arch.dispatch(BiasGeluTanh { rows, bias });
}

// Kernels are types with an inlined method, not closures: a closure's call is not always inlined into the function that
// has the vector instructions, and without them every `mul_add` is a library call.

struct Silu<'a>(&'a mut [f32]);

impl WithSimd for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.0 {
            *x /= 1.0 + exp(-*x);
        }
    }
}

struct BiasGeluTanh<'a> {
    rows: &'a mut [f32],
    bias: &'a [f32],
}

impl WithSimd for BiasGeluTanh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // 0.5 x (1 + tanh z) = x / (1 + e^-2z), which needs one exponential and no subtraction of close numbers.
        const A: f32 = -2.0 * 0.797_884_6;
        const B: f32 = A * 0.044_715;
        for row in self.rows.chunks_exact_mut(self.bias.len()) {
            for (x, b) in row.iter_mut().zip(self.bias) {
                let y = *x + b;
                let minus_2z = y * (y * y).mul_add(B, A);
                *x = y / (1.0 + exp(minus_2z));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Vec<f32> {
        (-4000..=4000).map(|i| i as f32 * 5e-3).collect()
    }

    #[test]
    fn silu_is_the_textbook_function() {
        let mut got = grid();
        silu(Arch::new(), &mut got);
        for (x, y) in grid().into_iter().zip(got) {
            let x = f64::from(x);
            let expected = x / (1.0 + (-x).exp());
            assert!(
                (f64::from(y) - expected).abs() <= 1e-6 * expected.abs(),
                "silu({x}) = {y}, not {expected}"
            );
        }
    }

    #[test]
    fn gelu_is_the_textbook_tanh_form() {
        for bias in [0.0f32, 0.375] {
            let mut got = grid();
            let width = got.len();
            bias_gelu_tanh(Arch::new(), &mut got, &vec![bias; width]);
            for (x, y) in grid().into_iter().zip(got) {
                let x = f64::from(x + bias);
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                let expected = 0.5 * x * (1.0 + z.tanh());
                assert!(
                    (f64::from(y) - expected).abs() < 1e-6 * (1.0 + x.abs()),
                    "gelu({x}) = {y}, not {expected}"
                );
            }
        }
    }
}
