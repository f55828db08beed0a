//! From stored words to the operands of a matrix unit.
//!
//! A thread of a warp loads whole words of a row; which channel sits where in an operand is free, as long as queries and keys agree (the sum
//! over channels does not care) and the output's columns are named accordingly. So nothing goes through shared memory.

use cubecl::prelude::*;

/// Two numbers of type `F` from a pair of small whole numbers in a word's halves, exactly: whole numbers below `2^mantissa` are put under an exponent at
/// which the last place is 1, and the offset is taken off again.
#[cube]
fn from_halves<F: Float, N2: Size>(
    halves: u32,
    #[comptime] offset: i64,
    #[comptime] half_precision: bool,
) -> Vector<F, N2> {
    // 1024 of f16, 128 of bf16.
    let exponent = comptime!(if half_precision { 0x6400_6400u32 } else { 0x4300_4300u32 });
    let base = comptime!(if half_precision { 1024i64 } else { 128i64 });
    Vector::<F, N2>::reinterpret(halves | exponent) - Vector::new(F::from_int(base + offset))
}

/// Two numbers of type `F` from the bytes at `shift` of two words of 8-bit codes.
#[cube]
fn from_bytes<F: Float, N2: Size>(
    a: u32,
    b: u32,
    #[comptime] shift_a: u32,
    #[comptime] shift_b: u32,
) -> Vector<F, N2> {
    // Codes are two's complement; with the sign bit turned they are 128 more than they stand for.
    let x = f32::reinterpret(((a >> shift_a) & 255u32) | 0x4b00_0000u32) - f32::new(8_388_736.0);
    let y = f32::reinterpret(((b >> shift_b) & 255u32) | 0x4b00_0000u32) - f32::new(8_388_736.0);
    let mut pair = Vector::<F, N2>::empty();
    pair[0] = F::cast_from(x);
    pair[1] = F::cast_from(y);
    pair
}

/// Operands of one token's words for the contraction over channels: step `s` takes register pair `2s, 2s + 1`.
#[cube]
pub(super) fn key_pairs<F: Float, W: Size, N2: Size>(
    words: &Vector<u32, W>,
    #[comptime] bits: u32,
    #[comptime] half_precision: bool,
) -> Array<Vector<F, N2>> {
    let words_at_once = W::value();
    let per_word = comptime!((32 / bits) as usize / 2);
    let mut pairs = Array::<Vector<F, N2>>::new(comptime!(words_at_once * per_word));
    #[unroll]
    for w in 0..W::value() {
        let word = words[w];
        if comptime!(bits == 16) {
            pairs[w] = Vector::reinterpret(word);
        } else if comptime!(bits == 8) {
            let turned = word ^ 0x8080_8080u32;
            pairs[2 * w] = from_bytes::<F, N2>(turned, turned, 0u32, 8u32);
            pairs[2 * w + 1] = from_bytes::<F, N2>(turned, turned, 16u32, 24u32);
        } else {
            // Low halves of bytes 0 and 2, then of 1 and 3, then the high halves likewise.
            pairs[4 * w] = from_halves::<F, N2>(word & 0x000f_000fu32, 8i64, half_precision);
            pairs[4 * w + 1] = from_halves::<F, N2>((word >> 8u32) & 0x000f_000fu32, 8i64, half_precision);
            pairs[4 * w + 2] = from_halves::<F, N2>((word >> 4u32) & 0x000f_000fu32, 8i64, half_precision);
            pairs[4 * w + 3] = from_halves::<F, N2>((word >> 12u32) & 0x000f_000fu32, 8i64, half_precision);
        }
    }
    pairs
}

/// Channel of element `element` (0 or 1) of register pair `pair` in load `load` of thread `quad` of a row's four.
#[cube]
pub(super) fn key_channel(
    quad: u32,
    #[comptime] load: u32,
    #[comptime] pair: u32,
    #[comptime] element: u32,
    #[comptime] words: u32,
    #[comptime] bits: u32,
    #[comptime] dim: u32,
) -> u32 {
    if comptime!(bits == 4) {
        let bytes = comptime!(words * 4);
        let within = comptime!(pair % 4);
        let byte = comptime!(pair / 4 * 4 + (within % 2) + 2 * element);
        let high = comptime!(if within >= 2 { dim / 2 } else { 0 });
        load * 4 * bytes + quad * bytes + byte + high
    } else {
        let elements = comptime!(words * 32 / bits);
        let within = comptime!(2 * pair + element);
        load * 4 * elements + quad * elements + within
    }
}

/// Operands for the contraction over tokens: element `e` of tokens `a` and `b`, next to each other, for every element of a load.
#[cube]
pub(super) fn value_pairs<F: Float, W: Size, N2: Size>(
    a: &Vector<u32, W>,
    b: &Vector<u32, W>,
    #[comptime] bits: u32,
    #[comptime] half_precision: bool,
) -> Array<Vector<F, N2>> {
    let words_at_once = W::value();
    let per_word = comptime!((32 / bits) as usize);
    let mut pairs = Array::<Vector<F, N2>>::new(comptime!(words_at_once * per_word));
    #[unroll]
    for w in 0..W::value() {
        let x = a[w];
        let y = b[w];
        if comptime!(bits == 16) {
            pairs[2 * w] = Vector::reinterpret((x & 0xffffu32) | (y << 16u32));
            pairs[2 * w + 1] = Vector::reinterpret((x >> 16u32) | (y & 0xffff_0000u32));
        } else if comptime!(bits == 8) {
            let x = x ^ 0x8080_8080u32;
            let y = y ^ 0x8080_8080u32;
            pairs[4 * w] = from_bytes::<F, N2>(x, y, 0u32, 0u32);
            pairs[4 * w + 1] = from_bytes::<F, N2>(x, y, 8u32, 8u32);
            pairs[4 * w + 2] = from_bytes::<F, N2>(x, y, 16u32, 16u32);
            pairs[4 * w + 3] = from_bytes::<F, N2>(x, y, 24u32, 24u32);
        } else {
            #[unroll]
            for i in 0..8u32 {
                let low = (x >> comptime!(4 * i)) & 15u32;
                let high = (y >> comptime!(4 * i)) & 15u32;
                pairs[8 * w + i as usize] = from_halves::<F, N2>(low | (high << 16u32), 8i64, half_precision);
            }
        }
    }
    pairs
}

/// Channel of column `column` of the output block of element `element` of load `load`.
#[cube]
pub(super) fn value_channel(
    column: u32,
    #[comptime] load: u32,
    #[comptime] element: u32,
    #[comptime] words: u32,
    #[comptime] bits: u32,
    #[comptime] dim: u32,
) -> u32 {
    if comptime!(bits == 4) {
        let bytes = comptime!(words * 4);
        let high = comptime!(if element % 2 == 1 { dim / 2 } else { 0 });
        load * 8 * bytes + column * bytes + comptime!(element / 2) + high
    } else {
        let elements = comptime!(words * 32 / bits);
        load * 8 * elements + column * elements + element
    }
}
