//! Exponential that a compiler can vectorise.

/// `e^x` with a relative error below 3e-7 for `-87 <= x <= 88`; arguments beyond are clamped to that range (`e^-87`, about 1.6e-38,
/// vanishes in any softmax), NaN stays NaN.
///
/// Call it from code that runs under a SIMD dispatch, so that `mul_add` is one instruction.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r * r, r) + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    #[test]
    fn agrees_with_the_standard_library() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let (got, want) = (super::exp(x), f64::from(x).exp());
            assert!(((f64::from(got) - want) / want).abs() < 3e-7, "exp({x}) = {got}, should be {want}");
        }
        assert_eq!(super::exp(0.0), 1.0);
        assert!(super::exp(-1e30) < 2e-38 && super::exp(-1e30) >= 0.0);
        assert!(super::exp(1e30).is_finite() && super::exp(f32::NAN).is_nan());
    }
}
