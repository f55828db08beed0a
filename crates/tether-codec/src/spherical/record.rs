//! Codes as bytes outside of memory.
//!
//! | bytes | what, little-endian |
//! |---|---|
//! | 0..4 | `SKV1` |
//! | 4 | bits |
//! | 5 | fit: 0 unbiased, 1 least squares |
//! | 6..8 | extents of the shape, at most 8 |
//! | 8..16 | FNV-1a (64 bits) of bytes 0..8 and of all from byte 16 on |
//! | 16.. | extents, `u64` each; zeros up to a multiple of 16 bytes |
//! | | codes, then radii (`f16`) |

use half::f16;
use tether_core::Shape;

use super::{HostSpherical, RadiusFit, SphericalBits, SphericalFormat, SphericalProblem};
use crate::CodecError;

pub(crate) const MAGIC: [u8; 4] = *b"SKV1";
const MOST_EXTENTS: usize = 8;

/// FNV-1a of a record, without the place of the checksum itself: bytes 8 to 15.
pub(crate) fn checksum(record: &[u8]) -> u64 {
    let bytes = record[..8].iter().chain(&record[16..]);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn codes_at(extents: usize) -> usize {
    (16 + 8 * extents).next_multiple_of(16)
}

impl HostSpherical {
    /// The codes as bytes, for a file or another process.
    ///
    /// # Errors
    /// [`CodecError::Core`] when the parts do not fit each other, [`CodecError::Header`] for more than 8 extents.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let problem = self.check()?;
        if self.shape.len() > MOST_EXTENTS {
            return Err(CodecError::Header { field: "number of extents", value: self.shape.len() as u64 });
        }
        let mut record = Vec::with_capacity(codes_at(self.shape.len()) + problem.bytes());
        record.extend(MAGIC);
        record.push(self.format.bits.bits() as u8);
        record.push(u8::from(self.format.fit == RadiusFit::LeastSquares));
        record.extend((self.shape.len() as u16).to_le_bytes());
        record.extend([0; 8]);
        record.extend(self.shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes()));
        record.resize(codes_at(self.shape.len()), 0);
        record.extend(&self.codes);
        record.extend(self.radii.iter().flat_map(|radius| radius.to_le_bytes()));
        let checksum = checksum(&record).to_le_bytes();
        record[8..16].copy_from_slice(&checksum);
        Ok(record)
    }

    /// Reads what [`HostSpherical::to_bytes`] wrote. Nothing is allocated before the length is known to be right.
    ///
    /// # Errors
    /// [`CodecError`]: what is wrong with the bytes.
    pub fn from_bytes(record: &[u8]) -> Result<Self, CodecError> {
        let length = |expected: usize| CodecError::Length { expected, got: record.len() };
        let header = record.first_chunk::<16>().ok_or_else(|| length(16))?;
        let [a, b, c, d, bits, fit, low, high, ..] = *header;
        if [a, b, c, d] != MAGIC {
            let value = u64::from(u32::from_le_bytes([a, b, c, d]));
            return Err(CodecError::Header { field: "magic number", value });
        }
        let bits = SphericalBits::from_bits(bits.into())
            .ok_or(CodecError::Header { field: "number of bits", value: bits.into() })?;
        let fit = match fit {
            0 => RadiusFit::Unbiased,
            1 => RadiusFit::LeastSquares,
            _ => return Err(CodecError::Header { field: "fit", value: fit.into() }),
        };
        let extents = usize::from(u16::from_le_bytes([low, high]));
        if extents > MOST_EXTENTS {
            return Err(CodecError::Header { field: "number of extents", value: extents as u64 });
        }
        let start = codes_at(extents);
        if record.len() < start {
            return Err(length(start));
        }
        let (words, _) = record[16..start].as_chunks::<8>();
        let extent = |&word: &[u8; 8]| {
            let value = u64::from_le_bytes(word);
            usize::try_from(value).map_err(|_| CodecError::Header { field: "extent", value })
        };
        let shape = words[..extents].iter().map(extent).collect::<Result<Shape, _>>()?;
        let format = SphericalFormat { bits, fit };
        let problem = SphericalProblem::new(&shape, format)?;
        let end = start + problem.bytes();
        if record.len() != end {
            return Err(length(end));
        }
        let expected = u64::from_le_bytes(header[8..].try_into().unwrap_or_default());
        let got = checksum(record);
        if expected != got {
            return Err(CodecError::Checksum { expected, got });
        }
        let (codes, radii) = record[start..].split_at(problem.code_bytes());
        let radii = radii.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect();
        let made = Self { shape, format, codes: codes.to_vec(), radii };
        made.validate()?;
        Ok(made)
    }

    /// Every row is one that coding can have made: radii finite and not negative, padding 0.
    ///
    /// # Errors
    /// [`CodecError::Core`] as [`HostSpherical::check`], [`CodecError::Radius`], [`CodecError::Padding`].
    pub fn validate(&self) -> Result<SphericalProblem, CodecError> {
        let problem = self.check()?;
        if let Some(row) = self.radii.iter().position(|r| !r.is_finite() || r.to_f32() < 0.0) {
            return Err(CodecError::Radius { row, radius: self.radii[row].to_f32() });
        }
        // Heads are multiples of 8 channels, so codes end with a byte.
        let used = problem.head_dim * self.format.bits.bits() / 8;
        let mut rows = self.codes.chunks_exact(problem.row_bytes());
        match rows.position(|row| row[used..].iter().any(|&byte| byte != 0)) {
            Some(row) => Err(CodecError::Padding { row }),
            None => Ok(problem),
        }
    }
}
