//! Whole numbers times a scale plus a zero, with 1 to 8 bits and groups of either direction.

use half::f16;
use tether_core::{CoreError, checks};

use crate::MIN_SCALE_RANGE;

/// Which elements share a scale and a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AffineGroups {
    /// So many channels of a token next to each other, the last group possibly fewer.
    Channels(usize),
    /// A channel of so many tokens in a row, the last group possibly fewer: KIVI's keys (arXiv:2402.02750).
    Tokens(usize),
}

impl AffineGroups {
    /// Groups of a matrix.
    pub(crate) fn count(self, rows: usize, dim: usize) -> usize {
        match self {
            Self::Channels(size) => rows * dim.div_ceil(size),
            Self::Tokens(size) => rows.div_ceil(size) * dim,
        }
    }
}

/// A matrix as codes. Scale and zero of a group are its range over `2^bits - 1` and its smallest number, both stored as `f16`; codes are rounded to the
/// nearest and packed without gaps, lowest bits first, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineCodes {
    pub(crate) dim: usize,
    pub(crate) rows: usize,
    pub(crate) bits: usize,
    pub(crate) groups: AffineGroups,
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f16>,
    pub(crate) zeros: Vec<f16>,
}

impl AffineCodes {
    /// Codes `x` `[rows, dim]`.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for bits outside `1..=8`, no channels or empty groups, [`CoreError::Count`] for part of a row, [`CoreError::NonFinite`] for numbers that are
    /// not finite or that no `f16` spans.
    pub fn new(x: &[f32], dim: usize, bits: usize, groups: AffineGroups) -> Result<Self, CoreError> {
        let (AffineGroups::Channels(size) | AffineGroups::Tokens(size)) = groups;
        for (field, value, good, requirement) in [
            ("bits", bits, (1..=8).contains(&bits), "must be 1 to 8"),
            ("head_dim", dim, dim > 0, "must be at least 1"),
            ("elements of a group", size, size > 0, "must be at least 1"),
        ] {
            if !good {
                return Err(CoreError::Geometry { field, value, requirement });
            }
        }
        let rows = x.len() / dim;
        checks::count("elements of whole rows", rows * dim, x.len())?;
        let mut made =
            Self { dim, rows, bits, groups, codes: Vec::new(), scales: Vec::new(), zeros: Vec::new() };
        let count = groups.count(rows, dim);
        let (mut low, mut high) = (vec![f32::INFINITY; count], vec![f32::NEG_INFINITY; count]);
        for (i, &x) in x.iter().enumerate() {
            if !x.is_finite() {
                return Err(CoreError::NonFinite { what: "x", index: i });
            }
            let group = made.group(i / dim, i % dim);
            low[group] = low[group].min(x);
            high[group] = high[group].max(x);
        }
        let most = ((1usize << bits) - 1) as f32;
        // A scale that f16 rounds to 0 would make all codes alike, which they may be then: the range is that small.
        let scale = |(low, high): (&f32, &f32)| f16::from_f32((high - low).max(MIN_SCALE_RANGE) / most);
        made.scales = low.iter().zip(&high).map(scale).collect();
        made.zeros = low.iter().map(|&x| f16::from_f32(x)).collect();
        if let Some(index) = made.scales.iter().chain(&made.zeros).position(|x| !x.is_finite()) {
            return Err(CoreError::NonFinite { what: "scale or zero of a group", index: index % count });
        }
        made.codes = vec![0; (x.len() * bits).div_ceil(8)];
        for (i, &x) in x.iter().enumerate() {
            let group = made.group(i / dim, i % dim);
            let (scale, zero) = (made.scales[group].to_f32(), made.zeros[group].to_f32());
            let code = if scale > 0.0 { ((x - zero) / scale).round().clamp(0.0, most) as u32 } else { 0 };
            let at = i * bits;
            let shifted = code << (at % 8);
            made.codes[at / 8] |= shifted as u8;
            if shifted > 255 {
                made.codes[at / 8 + 1] |= (shifted >> 8) as u8;
            }
        }
        Ok(made)
    }

    fn group(&self, row: usize, channel: usize) -> usize {
        match self.groups {
            AffineGroups::Channels(size) => row * self.dim.div_ceil(size) + channel / size,
            AffineGroups::Tokens(size) => row / size * self.dim + channel,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Channels of a row.
    pub fn head_dim(&self) -> usize {
        self.dim
    }

    /// Bytes of codes, scales and zeros.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 2 * (self.scales.len() + self.zeros.len())
    }

    /// The numbers that the codes of rows from `first` on stand for, as many as fit `into`. Rows that are not there are left as they are.
    pub fn read_rows(&self, first: usize, into: &mut [f32]) {
        let mask = (1u32 << self.bits) - 1;
        let rows = (first..self.rows).zip(into.chunks_exact_mut(self.dim));
        for (row, into) in rows {
            for (channel, x) in into.iter_mut().enumerate() {
                let element = row * self.dim + channel;
                let at = element * self.bits;
                let next = self.codes.get(at / 8 + 1).copied().unwrap_or(0);
                let word = u32::from(self.codes[at / 8]) | u32::from(next) << 8;
                let group = self.group(row, channel);
                let code = (word >> (at % 8) & mask) as f32;
                *x = code * self.scales[group].to_f32() + self.zeros[group].to_f32();
            }
        }
    }

    /// The numbers that the codes stand for, `[rows, dim]`.
    pub fn restored(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.rows * self.dim];
        self.read_rows(0, &mut out);
        out
    }
}
