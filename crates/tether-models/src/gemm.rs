//! The one place that calls the `gemm` crate.

/// `y = x w`, all row-major: `x` is `[rows, inputs]`, `w` is `[inputs, outputs]`, `y` is `[rows, outputs]`.
///
/// Single-threaded. The lengths decide `rows`.
///
/// # Panics
/// When the lengths do not fit together: a bug of this crate, whose callers size their buffers themselves.
pub(crate) fn matmul(y: &mut [f32], x: &[f32], w: &[f32], inputs: usize, outputs: usize) {
    assert!(inputs > 0 && outputs > 0, "empty matrix");
    let rows = x.len() / inputs;
    assert!(
        x.len() == rows * inputs && w.len() == inputs * outputs && y.len() == rows * outputs,
        "matmul of {} by {} into {} with {inputs} inputs and {outputs} outputs",
        x.len(),
        w.len(),
        y.len(),
    );
    let (ldx, ldw) = (inputs as isize, outputs as isize);
    // SAFETY: the assertion above makes every element that the call reads or writes, rows * inputs of `x`,
    // inputs * outputs of `w` and rows * outputs of `y`, lie inside the slices under these strides; `y` is borrowed
    // mutably, so it overlaps neither input.
    #[allow(unsafe_code, reason = "gemm::gemm takes raw pointers; the bounds are checked above")]
    unsafe {
        gemm::gemm(
            rows,
            outputs,
            inputs,
            y.as_mut_ptr(),
            1,
            ldw,
            false,
            x.as_ptr(),
            1,
            ldx,
            w.as_ptr(),
            1,
            ldw,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::matmul;

    #[test]
    fn agrees_with_the_definition() {
        for (rows, inputs, outputs) in [(1, 1, 1), (5, 7, 3), (192, 48, 192), (3, 192, 50)] {
            let x: Vec<f32> = (0..rows * inputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let w: Vec<f32> = (0..inputs * outputs).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
            let mut y = vec![f32::NAN; rows * outputs];
            matmul(&mut y, &x, &w, inputs, outputs);
            for r in 0..rows {
                for o in 0..outputs {
                    let want: f64 = (0..inputs)
                        .map(|i| f64::from(x[r * inputs + i]) * f64::from(w[i * outputs + o]))
                        .sum();
                    assert!((f64::from(y[r * outputs + o]) - want).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "matmul of")]
    fn wrong_lengths_are_caught_before_any_pointer_is_used() {
        matmul(&mut [0.0; 4], &[0.0; 4], &[0.0; 3], 2, 2);
    }
}
