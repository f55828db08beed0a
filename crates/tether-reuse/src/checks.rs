//! What every engine checks before it touches a tensor, and the arithmetic that turns sums into signals.

use crate::ReuseError;
use crate::engine::Shape;

/// Denominators below this count as this.
pub const SMALLEST_DENOMINATOR: f64 = 1e-12;

/// `a / b`; nothing over nothing is nothing, and what is not a number stays none.
pub fn ratio(a: f64, b: f64) -> f64 {
    // Not `max`, which would hide a NaN.
    a / if b < SMALLEST_DENOMINATOR { SMALLEST_DENOMINATOR } else { b }
}

/// `got` is `expected`.
///
/// # Errors
/// [`ReuseError::Shape`].
pub fn same_shape(what: &'static str, got: &[usize], expected: &[usize]) -> Result<(), ReuseError> {
    if got == expected {
        return Ok(());
    }
    Err(ReuseError::Shape { what, expected: Shape::from_slice(expected), got: Shape::from_slice(got) })
}

/// Elements of each of `parts` equal parts of `elements`.
///
/// # Errors
/// [`ReuseError::Parts`], also for no parts or no elements.
pub fn part(what: &'static str, elements: usize, parts: usize) -> Result<usize, ReuseError> {
    if parts == 0 || elements == 0 || !elements.is_multiple_of(parts) {
        return Err(ReuseError::Parts { what, elements, parts });
    }
    Ok(elements / parts)
}

/// An affine correction of `slopes` and `offsets` entries fits `elements` elements.
///
/// # Errors
/// [`ReuseError::Parts`] for rows that do not divide the elements, [`ReuseError::Shape`] for as many offsets as there are no slopes.
pub fn affine(elements: usize, slopes: usize, offsets: usize) -> Result<(), ReuseError> {
    part("an affine correction", elements, slopes)?;
    same_shape("an affine correction's offsets", &[offsets], &[slopes])
}
