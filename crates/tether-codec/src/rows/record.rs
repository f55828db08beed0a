//! Coded rows as bytes outside of memory.
//!
//! Spherical codes have a record of their own (`SKV1`, see [`crate::HostSpherical::to_bytes`]). All others:
//!
//! | bytes | what, little-endian |
//! |---|---|
//! | 0..4 | `TCR1` |
//! | 4 | kind: 0 numbers, 1 scales by groups of channels, 2 scales by groups of rows, 3 published tiers |
//! | 5 | bits of a code (kinds 1 and 2), tier from 0 for high (kind 3), else 0 |
//! | 6..8 | 0 |
//! | 8..16 | FNV-1a (64 bits) of bytes 0..8 and of all from byte 16 on |
//! | 16..40 | rows, channels, size of a group (kinds 1 and 2, else 0), `u64` each |
//! | 40..48 | 0 |
//! | 48.. | kind 0: numbers (`f16`); kinds 1 and 2: codes, scales, zeros (`f16`); kind 3: directions, radii, scales (`f32`) |

use half::f16;

use super::CodedRows;
use crate::comparison::{AffineCodes, AffineGroups, PublishedCodes, PublishedTier};
use crate::spherical::record as spherical;
use crate::{CodecError, HostSpherical};

const MAGIC: [u8; 4] = *b"TCR1";
const HEADER: usize = 48;
const TIERS: [PublishedTier; 3] = [PublishedTier::High, PublishedTier::Mid, PublishedTier::Low];

/// Reads parts one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// As many bytes as there must be: the length of the record was checked before.
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        part
    }

    fn halves(&mut self, count: usize) -> Vec<f16> {
        self.take(2 * count).as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect()
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        self.take(4 * count).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

fn halves(numbers: &[f16]) -> impl Iterator<Item = u8> + '_ {
    numbers.iter().flat_map(|x| x.to_le_bytes())
}

fn finite(part: &'static str, numbers: impl IntoIterator<Item = f32>, least: f32) -> Result<(), CodecError> {
    match numbers.into_iter().enumerate().find(|(_, x)| !(x.is_finite() && *x >= least)) {
        Some((number, value)) => Err(CodecError::Number { part, number, value }),
        None => Ok(()),
    }
}

/// Bits after the last of `count` codes are 0.
fn padded(codes: &[u8], count: usize, bits: usize, row: usize) -> Result<(), CodecError> {
    let left = (8 - count * bits % 8) % 8;
    match codes.last() {
        Some(&last) if left > 0 && last >> (8 - left) != 0 => Err(CodecError::Padding { row }),
        _ => Ok(()),
    }
}

impl CodedRows {
    /// The codes as bytes, for a file or another process. Their frame goes beside them.
    ///
    /// # Errors
    /// Those of [`HostSpherical::to_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let (kind, detail, dim, group) = match self {
            Self::Spherical(codes) => return codes.to_bytes(),
            Self::Half { head_dim, .. } => (0, 0, *head_dim, 0),
            Self::Affine(codes) => match codes.groups {
                AffineGroups::Channels(size) => (1, codes.bits as u8, codes.dim, size),
                AffineGroups::Tokens(size) => (2, codes.bits as u8, codes.dim, size),
            },
            Self::Published(codes) => {
                let tier = TIERS.iter().position(|t| *t == codes.tier).unwrap_or(0);
                (3, tier as u8, codes.scales.len() * codes.tier.shape().0, 0)
            }
        };
        let mut record = Vec::with_capacity(HEADER + self.bytes());
        record.extend(MAGIC);
        record.extend([kind, detail, 0, 0]);
        record.extend([0; 8]);
        record.extend([self.rows(), dim, group].into_iter().flat_map(|n| (n as u64).to_le_bytes()));
        record.resize(HEADER, 0);
        match self {
            Self::Spherical(_) => {}
            Self::Half { numbers, .. } => record.extend(halves(numbers)),
            Self::Affine(codes) => {
                record.extend(&codes.codes);
                record.extend(halves(&codes.scales).chain(halves(&codes.zeros)));
            }
            Self::Published(codes) => {
                record.extend(codes.directions.iter().chain(&codes.radii));
                record.extend(codes.scales.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
        let checksum = spherical::checksum(&record).to_le_bytes();
        record[8..16].copy_from_slice(&checksum);
        Ok(record)
    }

    /// Reads what [`CodedRows::to_bytes`] wrote. Nothing is allocated before the length is known to be right.
    ///
    /// # Errors
    /// [`CodecError`]: what is wrong with the bytes.
    pub fn from_bytes(record: &[u8]) -> Result<Self, CodecError> {
        if record.starts_with(&spherical::MAGIC) {
            return HostSpherical::from_bytes(record).map(Self::Spherical);
        }
        let length = |expected: usize| CodecError::Length { expected, got: record.len() };
        let header = record.first_chunk::<HEADER>().ok_or_else(|| length(HEADER))?;
        let [a, b, c, d, kind, detail, e, f, ..] = *header;
        if [a, b, c, d] != MAGIC {
            let value = u64::from(u32::from_le_bytes([a, b, c, d]));
            return Err(CodecError::Header { field: "magic number", value });
        }
        let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let known = |good: bool, field: &'static str, value: u64| match good {
            true => Ok(()),
            false => Err(CodecError::Header { field, value }),
        };
        known([e, f] == [0, 0] && field(40) == 0, "padding", field(40))?;
        // Of sizes below this no product overflows.
        let size = |name: &'static str, at: usize| {
            let value = field(at);
            known(value < 1 << 30, name, value).map(|()| value as usize)
        };
        let (rows, dim, group) = (size("rows", 16)?, size("channels", 24)?, size("group", 32)?);
        known(dim > 0, "channels", 0)?;
        let bits = usize::from(detail);
        let (bytes, groups) = match kind {
            0 => {
                known(detail == 0 && group == 0, "detail of numbers", detail.into())?;
                (2 * rows * dim, 0)
            }
            1 | 2 => {
                known((1..=8).contains(&bits), "number of bits", detail.into())?;
                known(group > 0, "group", 0)?;
                let by = if kind == 1 { AffineGroups::Channels(group) } else { AffineGroups::Tokens(group) };
                let groups = by.count(rows, dim);
                ((rows * dim * bits).div_ceil(8) + 4 * groups, groups)
            }
            3 => {
                known(bits < TIERS.len() && group == 0, "tier", detail.into())?;
                let (channels, bits) = TIERS[bits].shape();
                known(dim.is_multiple_of(channels), "channels", dim as u64)?;
                let groups = dim / channels;
                ((rows * groups * bits as usize).div_ceil(8) + rows * groups + 4 * groups, groups)
            }
            _ => return Err(CodecError::Header { field: "kind", value: kind.into() }),
        };
        if record.len() != HEADER + bytes {
            return Err(length(HEADER + bytes));
        }
        let (expected, got) = (field(8), spherical::checksum(record));
        if expected != got {
            return Err(CodecError::Checksum { expected, got });
        }
        let mut parts = Parts(&record[HEADER..]);
        let last = rows.saturating_sub(1);
        match kind {
            0 => {
                let numbers = parts.halves(rows * dim);
                finite("numbers", numbers.iter().map(|x| x.to_f32()), f32::MIN)?;
                Ok(Self::Half { head_dim: dim, numbers })
            }
            1 | 2 => {
                let codes = parts.take((rows * dim * bits).div_ceil(8)).to_vec();
                padded(&codes, rows * dim, bits, last)?;
                let (scales, zeros) = (parts.halves(groups), parts.halves(groups));
                finite("scales", scales.iter().map(|x| x.to_f32()), 0.0)?;
                finite("zeros", zeros.iter().map(|x| x.to_f32()), f32::MIN)?;
                let groups =
                    if kind == 1 { AffineGroups::Channels(group) } else { AffineGroups::Tokens(group) };
                Ok(Self::Affine(AffineCodes { dim, rows, bits, groups, codes, scales, zeros }))
            }
            _ => {
                let tier = TIERS[bits];
                let bits = tier.shape().1 as usize;
                let directions = parts.take((rows * groups * bits).div_ceil(8)).to_vec();
                padded(&directions, rows * groups, bits, last)?;
                let radii = parts.take(rows * groups).to_vec();
                if let Some(place) = radii.iter().position(|&radius| radius > 127) {
                    return Err(CodecError::Radius { row: place / groups, radius: radii[place].into() });
                }
                let scales = parts.floats(groups);
                finite("scales", scales.iter().copied(), 0.0)?;
                Ok(Self::Published(PublishedCodes { tier, rows, scales, directions, radii }))
            }
        }
    }
}
