//! Matrix products on the host, through the `gemm` crate.

/// A strided matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    strides: (usize, usize),
}

impl<'a> MatRef<'a> {
    /// Row-major `rows` x `cols` at the head of `data`, rows `stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, (stride, 1)), "matrix should lie inside its slice");
        Self { data, rows, cols, strides: (stride, 1) }
    }

    /// The transposed matrix; nothing moves.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { data: self.data, rows: self.cols, cols: self.rows, strides: (self.strides.1, self.strides.0) }
    }
}

fn fits(len: usize, rows: usize, cols: usize, (row, col): (usize, usize)) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row + (cols - 1) * col < len
}

/// `out = keep * out + lhs * rhs`, `out` row-major with rows `stride` apart; with `keep` 0 the old contents, even NaN, are ignored.
/// Single-threaded: the result does not depend on the machine's thread count.
///
/// # Panics
/// When the inner extents differ or `out` is too short.
pub fn matmul(out: &mut [f32], stride: usize, keep: f32, lhs: MatRef<'_>, rhs: MatRef<'_>) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(lhs.cols, rhs.rows, "inner extents should agree");
    assert!(stride >= n && fits(out.len(), m, n, (stride, 1)), "product should fit its slice");
    if m == 0 || n == 0 {
        return;
    }
    #[allow(unsafe_code, reason = "gemm takes raw pointers")]
    // SAFETY: both constructors and the assertion above bound every `row * row_stride + col * col_stride` by its slice's length;
    // strides are lengths of slices, so they fit `isize`; `out` is exclusively borrowed, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            keep != 0.0,
            lhs.data.as_ptr(),
            lhs.strides.1 as isize,
            lhs.strides.0 as isize,
            rhs.data.as_ptr(),
            rhs.strides.1 as isize,
            rhs.strides.0 as isize,
            keep,
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
    use super::{MatRef, matmul};

    #[test]
    fn agrees_with_the_definition() {
        for (m, k, n) in [(1, 1, 1), (5, 7, 3), (192, 48, 192), (3, 192, 50)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let b: Vec<f32> = (0..n * k).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
            // Rows further apart than they are wide, and a right side that is stored transposed.
            let stride = n + 3;
            let mut y = vec![f32::NAN; m * stride];
            let (lhs, rhs) = (MatRef::row_major(&a, m, k, k), MatRef::row_major(&b, n, k, k).transposed());
            matmul(&mut y, stride, 0.0, lhs, rhs);
            matmul(&mut y, stride, 0.5, lhs, rhs);
            for (r, row) in y.chunks(stride).enumerate() {
                for (c, got) in row.iter().enumerate().take(n) {
                    let dot: f64 = (0..k).map(|i| f64::from(a[r * k + i]) * f64::from(b[c * k + i])).sum();
                    assert!((f64::from(*got) - 1.5 * dot).abs() < 1e-4, "{got} for {}", 1.5 * dot);
                }
                assert!(row[n..].iter().all(|x| x.is_nan()), "the gap between rows should stay as it was");
            }
        }
    }

    #[test]
    #[should_panic(expected = "inside its slice")]
    fn a_matrix_larger_than_its_slice_is_caught_before_any_pointer_is_used() {
        MatRef::row_major(&[0.0; 5], 2, 3, 3);
    }

    #[test]
    #[should_panic(expected = "fit its slice")]
    fn a_product_larger_than_its_slice_is_caught_before_any_pointer_is_used() {
        let a = MatRef::row_major(&[0.0; 4], 2, 2, 2);
        matmul(&mut [0.0; 3], 2, 0.0, a, a);
    }
}
