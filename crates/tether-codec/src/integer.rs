//! The integer codec: whole numbers times a scale plus a zero, with 1 to 8 bits and groups of either direction.

use half::f16;
use tether_core::{CoreError, checks};

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

/// Smallest range that a scale stands for.
pub const MIN_SCALE_RANGE: f32 = 1e-8;

/// Where the codes of a row lie: codes of a whole fraction of a byte lie side by side in planes, so that a byte holds
/// channels far apart and a register of bytes channels that follow each other.
///
/// Returns codes of a byte, where rows are whole bytes of them.
pub fn codes_of_a_byte(bits: usize, dim: usize) -> Option<usize> {
    let count = 8 / bits;
    (8 % bits == 0 && dim.is_multiple_of(count)).then_some(count)
}

/// A matrix as codes. Scale and zero of a group are its range over `2^bits - 1` and its smallest number, both stored as
/// `f16`; codes are rounded to the nearest.
///
/// Where rows are whole bytes of `n` codes ([`codes_of_a_byte`]), byte `i` of a row holds those of channels `i`, `i +
/// head_dim / n` and so on, from the lowest bits up. Other codes are packed without gaps, lowest bits first, row by
/// row.
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
    /// [`CoreError::Geometry`] for bits outside `1..=8`, no channels or empty groups, [`CoreError::Count`] for part of
    /// a row, [`CoreError::NonFinite`] for numbers that are not finite or that no `f16` spans.
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
        let (scales, zeros) = (all_widened(&made.scales), all_widened(&made.zeros));
        for (row, x) in x.chunks_exact(dim).enumerate() {
            for (channel, &x) in x.iter().enumerate() {
                let group = made.group(row, channel);
                let (scale, zero) = (scales[group], zeros[group]);
                let code = if scale > 0.0 { ((x - zero) / scale).round().clamp(0.0, most) as u32 } else { 0 };
                let at = made.bit(row, channel);
                let shifted = code << (at % 8);
                made.codes[at / 8] |= shifted as u8;
                if shifted > 255 {
                    made.codes[at / 8 + 1] |= (shifted >> 8) as u8;
                }
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

    /// The first bit of a code.
    fn bit(&self, row: usize, channel: usize) -> usize {
        match codes_of_a_byte(self.bits, self.dim) {
            Some(count) => {
                let bytes = self.dim / count;
                8 * (row * bytes + channel % bytes) + channel / bytes * self.bits
            }
            None => (row * self.dim + channel) * self.bits,
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

    /// The numbers that the codes of rows from `first` on stand for, as many as fit `into`. Rows that are not there are
    /// left as they are.
    ///
    /// Inlined, so that a caller that has wider vector instructions has them here.
    #[inline(always)]
    pub fn read_rows(&self, first: usize, into: &mut [f32]) {
        let count = (into.len() / self.dim).min(self.rows.saturating_sub(first));
        let into = &mut into[..count * self.dim];
        for (row, into) in (first..).zip(into.chunks_exact_mut(self.dim)) {
            self.unpack(row, into);
        }
        match self.groups {
            AffineGroups::Channels(size) => {
                let groups = self.dim.div_ceil(size);
                for (row, into) in (first..).zip(into.chunks_exact_mut(self.dim)) {
                    let of_row = row * groups..(row + 1) * groups;
                    let pairs = self.scales[of_row.clone()].iter().zip(&self.zeros[of_row]);
                    for (into, (scale, zero)) in into.chunks_mut(size).zip(pairs) {
                        let (scale, zero) = (widened(*scale), widened(*zero));
                        into.iter_mut().for_each(|x| *x = *x * scale + zero);
                    }
                }
            }
            AffineGroups::Tokens(size) => {
                let mut row = first;
                let mut rest = into;
                while !rest.is_empty() {
                    let group = row / size;
                    let together = ((group + 1) * size - row).min(rest.len() / self.dim);
                    let (now, later) = rest.split_at_mut(together * self.dim);
                    let of_group = group * self.dim..(group + 1) * self.dim;
                    let scales = all_widened(&self.scales[of_group.clone()]);
                    let zeros = all_widened(&self.zeros[of_group]);
                    for into in now.chunks_exact_mut(self.dim) {
                        let pairs = scales.iter().zip(&zeros);
                        into.iter_mut().zip(pairs).for_each(|(x, (scale, zero))| *x = *x * scale + zero);
                    }
                    (rest, row) = (later, row + together);
                }
            }
        }
    }

    /// The codes of a row as numbers.
    #[inline(always)]
    fn unpack(&self, row: usize, into: &mut [f32]) {
        let mask = ((1u32 << self.bits) - 1) as u8;
        if let Some(count) = codes_of_a_byte(self.bits, self.dim) {
            let bytes = self.dim / count;
            let codes = &self.codes[row * bytes..][..bytes];
            for (plane, into) in into.chunks_exact_mut(bytes).enumerate() {
                let shift = plane * self.bits;
                into.iter_mut().zip(codes).for_each(|(x, byte)| *x = f32::from(byte >> shift & mask));
            }
            return;
        }
        for (channel, x) in into.iter_mut().enumerate() {
            let at = self.bit(row, channel);
            let next = self.codes.get(at / 8 + 1).copied().unwrap_or(0);
            let word = u16::from(self.codes[at / 8]) | u16::from(next) << 8;
            *x = f32::from((word >> (at % 8)) as u8 & mask);
        }
    }

    /// The numbers that the codes stand for, `[rows, dim]`.
    pub fn restored(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.rows * self.dim];
        self.read_rows(0, &mut out);
        out
    }
}

#[inline(always)]
fn all_widened(numbers: &[f16]) -> Vec<f32> {
    numbers.iter().map(|&x| widened(x)).collect()
}

/// A finite half-precision number, without asking what the processor can do: in loops that are made for what it can,
/// that takes longer than the number.
#[inline(always)]
pub fn widened(half: f16) -> f32 {
    let bits = u32::from(half.to_bits());
    // 2^112: what exponents differ by.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}
