//! Weights out of their blocks, as the format's own library (ggml) has them.

use half::{bf16, f16};

use super::block_format::BlockFormat;
use super::k_blocks::{q2_k, q3_k, q4_k, q5_k, q6_k, q8_k};

impl BlockFormat {
    /// The weights of whole blocks, as `f32`. What is left over of `bytes` is no block.
    pub fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => each(bytes, |b: &[u8; 4]| [f32::from_le_bytes(*b)]),
            Self::F16 => each(bytes, |b: &[u8; 2]| [f16::from_le_bytes(*b).to_f32()]),
            Self::BF16 => each(bytes, |b: &[u8; 2]| [bf16::from_le_bytes(*b).to_f32()]),
            Self::Q4_0 => each(bytes, |b: &[u8; 18]| scaled(nibbles(&b[2..]), -8, half_at(b, 0))),
            Self::Q4_1 => each(bytes, |b: &[u8; 20]| above(nibbles(&b[4..]), half_at(b, 0), half_at(b, 2))),
            Self::Q5_0 => each(bytes, |b: &[u8; 22]| scaled(fives(&b[2..]), -16, half_at(b, 0))),
            Self::Q5_1 => each(bytes, |b: &[u8; 24]| above(fives(&b[4..]), half_at(b, 0), half_at(b, 2))),
            Self::Q8_0 => each(bytes, |b: &[u8; 34]| signed(&b[2..], half_at(b, 0))),
            // The number after the scale is the sum of the codes, for products of two such blocks.
            Self::Q8_1 => each(bytes, |b: &[u8; 36]| signed(&b[4..], half_at(b, 0))),
            Self::Q2_K => each(bytes, q2_k),
            Self::Q3_K => each(bytes, q3_k),
            Self::Q4_K => each(bytes, q4_k),
            Self::Q5_K => each(bytes, q5_k),
            Self::Q6_K => each(bytes, q6_k),
            Self::Q8_K => each(bytes, q8_k),
        }
    }
}

fn each<const BYTES: usize, const WEIGHTS: usize>(
    bytes: &[u8],
    weights: impl Fn(&[u8; BYTES]) -> [f32; WEIGHTS],
) -> Vec<f32> {
    bytes.as_chunks().0.iter().flat_map(weights).collect()
}

/// The `f16` at byte `at` of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Codes of four bits: byte `i` has those of weights `i` (low) and `i + 16`.
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Codes of five bits: the highest of all, a bit a weight, and then the others.
fn fives(bytes: &[u8]) -> [u8; 32] {
    let low = nibbles(&bytes[4..]);
    std::array::from_fn(|i| low[i] | (bytes[i / 8] >> (i % 8) & 1) << 4)
}

/// `(code + shift) * scale`.
fn scaled(codes: [u8; 32], shift: i16, scale: f32) -> [f32; 32] {
    codes.map(|code| f32::from(i16::from(code) + shift) * scale)
}

/// `code * scale + least`.
fn above(codes: [u8; 32], scale: f32, least: f32) -> [f32; 32] {
    codes.map(|code| f32::from(code) * scale + least)
}

/// Codes with a sign.
fn signed(codes: &[u8], scale: f32) -> [f32; 32] {
    std::array::from_fn(|i| f32::from(codes[i].cast_signed()) * scale)
}
