//! One row: numbers to codes and back.

use half::f16;

use super::{HadamardRotation, RadiusFit, SphericalFormat};

/// Codes the `centred` row (which is rotated on the way) into `into`, as many bytes as a row has, and returns its radius before rounding.
pub(super) fn encode(
    centred: &mut [f32],
    rotation: &HadamardRotation,
    format: SphericalFormat,
    into: &mut [u8],
) -> f32 {
    rotation.rotate(centred);
    let y = centred;
    into.fill(0);
    let squared: f32 = y.iter().map(|y| y * y).sum();
    if squared == 0.0 {
        return 0.0;
    }
    let norm = squared.sqrt();
    let to_unit = (y.len() as f32).sqrt() / norm;
    let (levels, midpoints) = (format.bits.levels(), format.bits.midpoints());
    let (mut along, mut energy) = (0f32, 0f32);
    let mut packed = BitWriter { bytes: into, held: 0, count: 0 };
    for &y in y.iter() {
        let u = y * to_unit;
        let code: u32 = midpoints.iter().map(|&m| u32::from(u > m)).sum();
        let z = levels[code as usize];
        along += u * z;
        energy += z * z;
        packed.push(code, format.bits.bits() as u32);
    }
    packed.finish();
    // In units of the norm: <y, z> is along / to_unit, |y|^2 is squared.
    match format.fit {
        RadiusFit::Unbiased => squared * to_unit / along,
        RadiusFit::LeastSquares => along / to_unit / energy,
    }
}

/// `radius z` of the codes of a row.
pub(super) fn decode(bytes: &[u8], radius: f16, format: SphericalFormat, into: &mut [f32]) {
    let radius = radius.to_f32();
    let levels = format.bits.levels();
    match format.bits.bits() {
        bits @ (1 | 2 | 4) => {
            let mut scaled = [0f32; 16];
            scaled.iter_mut().zip(levels).for_each(|(s, level)| *s = level * radius);
            let mask = (1u8 << bits) - 1;
            for (chunk, &byte) in into.chunks_mut(8 / bits).zip(bytes) {
                for (i, x) in chunk.iter_mut().enumerate() {
                    *x = scaled[usize::from(byte >> (i * bits) & mask)];
                }
            }
        }
        bits => {
            // 8 codes are 3 or 6 bytes.
            for (chunk, bytes) in into.chunks_mut(8).zip(bytes.chunks(bits)) {
                let mut word = 0u64;
                bytes.iter().enumerate().for_each(|(i, &byte)| word |= u64::from(byte) << (8 * i));
                for (i, x) in chunk.iter_mut().enumerate() {
                    *x = levels[(word >> (i * bits)) as usize & (levels.len() - 1)] * radius;
                }
            }
        }
    }
}

/// Appends bits from the lowest up.
struct BitWriter<'a> {
    bytes: &'a mut [u8],
    held: u32,
    count: u32,
}

impl BitWriter<'_> {
    fn push(&mut self, code: u32, bits: u32) {
        self.held |= code << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some((first, rest)) = std::mem::take(&mut self.bytes).split_first_mut() {
            *first = self.held as u8;
            self.bytes = rest;
        }
        self.held >>= 8;
        self.count = self.count.saturating_sub(8);
    }

    fn finish(mut self) {
        if self.count > 0 {
            self.flush();
        }
    }
}
