//! Blocks of 256 weights whose parts have scales of their own, which are codes too.

use super::dequantise::half_at;

/// Weights of a block.
const WEIGHTS: usize = 256;

/// Two bits: 16 bytes of scales (low four bits) and subtrahends (high), 64 bytes of codes, a scale of the scales and one of the
/// subtrahends. A byte has the codes of four weights that are 32 apart; 16 weights share a scale.
pub(super) fn q2_k(block: &[u8; 84]) -> [f32; WEIGHTS] {
    let (scales, codes) = block[..80].split_at(16);
    let (scale, least) = (half_at(block, 80), half_at(block, 82));
    std::array::from_fn(|i| {
        let own = scales[i / 16];
        let code = codes[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
        scale * f32::from(own & 15) * f32::from(code) - least * f32::from(own >> 4)
    })
}

/// Three bits: 32 bytes of the codes' highest bits (4 is taken off where they are 0), 64 bytes of the others as in [`q2_k`], 12 bytes of
/// scales of six bits, and a scale of the scales.
pub(super) fn q3_k(block: &[u8; 110]) -> [f32; WEIGHTS] {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    let scales: [f32; 16] = std::array::from_fn(|j| {
        let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
        let own = low | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
        scale * f32::from(i16::from(own) - 32)
    });
    std::array::from_fn(|i| {
        let code = codes[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
        let shift = if high[i % 32] >> (i / 32) & 1 == 0 { 4 } else { 0 };
        scales[i / 16] * f32::from(i16::from(code) - shift)
    })
}

/// The scale and the subtrahend of 32 weights, six bits each, of eight such pairs in 12 bytes.
fn six_bits(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, least) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let both = packed[j + 4];
        (both & 15 | packed[j - 4] >> 6 << 4, both >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

/// Four bits: a scale of the scales and one of the subtrahends, 12 bytes of both, 128 bytes of codes. A byte has the codes of two weights
/// that are 32 apart.
pub(super) fn q4_k(block: &[u8; 144]) -> [f32; WEIGHTS] {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let pairs: [(f32, f32); 8] = std::array::from_fn(|j| six_bits(&block[4..16], j));
    std::array::from_fn(|i| {
        let (own, subtrahend) = pairs[i / 32];
        scale * own * f32::from(nibble(&block[16..], i)) - least * subtrahend
    })
}

/// As [`q4_k`], with 32 bytes of the codes' highest bits before the others.
pub(super) fn q5_k(block: &[u8; 176]) -> [f32; WEIGHTS] {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let pairs: [(f32, f32); 8] = std::array::from_fn(|j| six_bits(&block[4..16], j));
    let (high, codes) = block[16..].split_at(32);
    std::array::from_fn(|i| {
        let (own, subtrahend) = pairs[i / 32];
        let code = nibble(codes, i) | (high[i % 32] >> (i / 32) & 1) << 4;
        scale * own * f32::from(code) - least * subtrahend
    })
}

/// Codes of four bits, two weights that are 32 apart in a byte.
fn nibble(codes: &[u8], i: usize) -> u8 {
    let byte = codes[32 * (i / 64) + i % 32];
    if (i / 32).is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

/// Six bits, from which 32 is taken off: 128 bytes of low halves (two weights that are 64 apart in a byte), 64 bytes of the two highest bits
/// (four weights that are 32 apart), 16 scales of eight bits with a sign, and a scale of the scales.
pub(super) fn q6_k(block: &[u8; 210]) -> [f32; WEIGHTS] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    std::array::from_fn(|i| {
        let byte = low[64 * (i / 128) + i % 64];
        let low = if (i / 64).is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        let code = low | (high[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3) << 4;
        scale * f32::from(scales[i / 16].cast_signed()) * f32::from(i16::from(code) - 32)
    })
}

/// Eight bits: a scale of 32 bits, the codes, and their sums, for products of two such blocks.
pub(super) fn q8_k(block: &[u8; 292]) -> [f32; WEIGHTS] {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    std::array::from_fn(|i| f32::from(block[4 + i].cast_signed()) * scale)
}
