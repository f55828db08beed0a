//! Rows of whole numbers and of half precision, element by element.

use half::f16;
use tether_codec::MIN_SCALE_RANGE;
use tether_core::{RowCodec, Side};

/// What an element of a page should come back as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiteralNumber {
    /// The number.
    pub number: f64,
    /// How far apart neighbouring codes are; 0 for half precision.
    pub step: f64,
    /// The element lies so near to the middle of two codes that single precision may take either.
    pub between: bool,
}

/// The elements of a page of rows `[rows, dim]`, coded and restored; `None` for codecs that have an oracle of their
/// own.
pub fn literal_rows(codec: &RowCodec, side: Side, x: &[f32], dim: usize) -> Option<Vec<LiteralNumber>> {
    let by_channels = |bits: usize, size: usize| {
        let group = move |i: usize| i / dim * dim.div_ceil(size) + i % dim / size;
        literal_groups(x, bits, group)
    };
    match *codec {
        RowCodec::Half {} => {
            let half =
                |x: &f32| LiteralNumber { number: f16::from_f32(*x).into(), step: 0.0, between: false };
            Some(x.iter().map(half).collect())
        }
        RowCodec::Int { bits, group } => Some(by_channels(bits, group)),
        RowCodec::Kivi { bits } if side == Side::Values => Some(by_channels(bits, 32)),
        RowCodec::Kivi { bits } => Some(literal_groups(x, bits, |i| i % dim)),
        RowCodec::Spherical { .. } | RowCodec::SphericalPublished { .. } => None,
    }
}

fn literal_groups(x: &[f32], bits: usize, group: impl Fn(usize) -> usize) -> Vec<LiteralNumber> {
    let groups = (0..x.len()).map(&group).max().map_or(0, |last| last + 1);
    let (mut low, mut high) = (vec![f64::INFINITY; groups], vec![f64::NEG_INFINITY; groups]);
    for (i, &x) in x.iter().enumerate() {
        low[group(i)] = low[group(i)].min(x.into());
        high[group(i)] = high[group(i)].max(x.into());
    }
    let most = f64::from((1u32 << bits) - 1);
    let literal = |(i, &x): (usize, &f32)| {
        let (low, high) = (low[group(i)], high[group(i)]);
        let scale = f64::from(f16::from_f64((high - low).max(f64::from(MIN_SCALE_RANGE)) / most));
        let zero = f64::from(f16::from_f64(low));
        let steps = if scale > 0.0 { ((f64::from(x) - zero) / scale).clamp(0.0, most) } else { 0.0 };
        let between = (steps.fract() - 0.5).abs() < 1e-3;
        LiteralNumber { number: steps.round() * scale + zero, step: scale, between }
    };
    x.iter().enumerate().map(literal).collect()
}
