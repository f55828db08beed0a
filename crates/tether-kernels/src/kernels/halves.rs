//! Half precision in the halves of 32-bit words, for devices that store no numbers of it.

use cubecl::prelude::*;

/// The bits of `x` in half precision, rounded to the nearest, ties to even.
#[cube]
pub(crate) fn half_bits(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let sign = (bits >> 16u32) & 0x8000u32;
    let magnitude = bits & 0x7fff_ffffu32;
    // Another exponent, and 13 places less.
    let normal = (magnitude - 0x3800_0000u32 + 0xfffu32 + ((magnitude >> 13u32) & 1u32)) >> 13u32;
    // Below the smallest normal number the last place is 2^-24, which it is of 0.5 in single precision.
    let small = u32::reinterpret(f32::reinterpret(magnitude) + 0.5f32) - 0x3f00_0000u32;
    let mut half = select(magnitude < 0x3880_0000u32, small, normal);
    half = select(magnitude >= 0x4780_0000u32, 0x7c00u32.runtime(), half);
    sign | half
}

/// The number that the low 16 bits of `bits` are in half precision.
#[cube]
pub(crate) fn half_value(bits: u32) -> f32 {
    let exponent = (bits >> 10u32) & 31u32;
    let mantissa = bits & 1023u32;
    let normal = f32::reinterpret(((exponent + 112u32) << 23u32) | (mantissa << 13u32));
    let small = f32::cast_from(mantissa) * 5.960_464_5e-8f32;
    let infinite = f32::reinterpret(0x7f80_0000u32 | (mantissa << 13u32));
    let magnitude = select(exponent == 0u32, small, select(exponent == 31u32, infinite, normal));
    select((bits & 0x8000u32) != 0u32, -magnitude, magnitude)
}

/// Rounds each of `len` numbers to half precision.
#[cube(launch_unchecked)]
pub(crate) fn round_to_half(x: &mut Array<f32>, len: u32) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < len {
        x[at as usize] = half_value(half_bits(x[at as usize]));
    }
}
