//! Codecs that are compared.

use anyhow::Result;
use tether_codec::comparison::{PairPolar, PublishedTier, SphericalCodebooks};
use tether_codec::{
    AffineCodes, AffineGroups, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame,
};
use tether_core::{DType, HostTensor, Side};
use tether_host::Host;

use super::record::HeadTrace;

/// Tokens of a page of KIVI.
const PAGE: usize = 128;

/// A way to code keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    /// Scale and zero for each token and so many channels.
    Int {
        bits: usize,
        group: usize,
    },
    /// Scale and zero for each channel and page.
    Kivi {
        bits: usize,
    },
    Polar(PairPolar),
    Spherical {
        bits: SphericalBits,
        mean: Mean,
    },
    Published(PublishedTier),
}

/// What spherical codes are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mean {
    Nothing,
    /// The mean of a head's keys, which costs nothing per token.
    Head,
    /// The mean of a page's, an `f16` for each channel and page.
    Page,
}

impl Scheme {
    /// In the order of the table.
    pub(crate) fn all() -> Vec<Self> {
        let polar =
            |radius_bits, angle_bits, centred| Self::Polar(PairPolar { radius_bits, angle_bits, centred });
        let spherical = |bits, mean| Self::Spherical { bits, mean };
        vec![
            Self::Int { bits: 8, group: 64 },
            Self::Int { bits: 4, group: 64 },
            Self::Int { bits: 4, group: 32 },
            Self::Int { bits: 2, group: 32 },
            Self::Kivi { bits: 4 },
            Self::Kivi { bits: 3 },
            Self::Kivi { bits: 2 },
            polar(4, 4, false),
            polar(3, 5, false),
            polar(4, 4, true),
            polar(3, 5, true),
            spherical(SphericalBits::Four, Mean::Nothing),
            spherical(SphericalBits::Six, Mean::Head),
            spherical(SphericalBits::Four, Mean::Head),
            spherical(SphericalBits::Three, Mean::Head),
            spherical(SphericalBits::Two, Mean::Head),
            spherical(SphericalBits::One, Mean::Head),
            spherical(SphericalBits::Four, Mean::Page),
            spherical(SphericalBits::Three, Mean::Page),
            spherical(SphericalBits::Two, Mean::Page),
            spherical(SphericalBits::One, Mean::Page),
            Self::Published(PublishedTier::High),
            Self::Published(PublishedTier::Mid),
            Self::Published(PublishedTier::Low),
        ]
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Int { bits, group } => format!("int{bits}, per token, groups of {group}"),
            Self::Kivi { bits } => format!("KIVI int{bits}, per channel, pages of {PAGE}"),
            Self::Polar(PairPolar { radius_bits, angle_bits, centred }) => {
                format!("pair-polar {radius_bits}r+{angle_bits}a{}", if *centred { ", centred" } else { "" })
            }
            Self::Spherical { bits, mean: Mean::Head } => format!("**SKV{}**", bits.bits()),
            Self::Spherical { bits, mean: Mean::Page } => {
                format!("**SKV{}**, a mean for each page of {PAGE}", bits.bits())
            }
            Self::Spherical { bits, mean: Mean::Nothing } => format!("SKV{}, not centred", bits.bits()),
            Self::Published(tier) => format!("spherical as published, {tier:?} tier"),
        }
    }

    /// Whether codes depend on a rotation.
    pub(crate) fn rotates(&self) -> bool {
        matches!(self, Self::Spherical { .. })
    }

    /// A head's keys after the codec, and bits per channel with what is stored beside the codes. Means of a head and codebooks of a model cost nothing per token.
    /// `seed` is that of rotations.
    pub(crate) fn keys(&self, head: &HeadTrace, seed: u64) -> Result<(Vec<f32>, f64)> {
        let (k, dim) = (&head.k, head.dim);
        Ok(match *self {
            Self::Int { bits, group } => affine(k, dim, bits, AffineGroups::Channels(group))?,
            Self::Kivi { bits } => affine(k, dim, bits, AffineGroups::Tokens(PAGE))?,
            Self::Polar(polar) => (polar.restored(k, dim), polar.bits_per_channel(dim)),
            Self::Spherical { bits, mean } => {
                let format = SphericalFormat::of(Side::Keys, bits);
                let rows = if mean == Mean::Page { PAGE } else { head.tokens() };
                let mut keys = Vec::with_capacity(k.len());
                for part in k.chunks(rows * dim) {
                    let x = HostTensor::from_f32(&[part.len() / dim, 1, dim], part.to_vec())?;
                    let frame = match mean {
                        Mean::Nothing => SphericalFrame::uncentred(1, dim, seed)?,
                        Mean::Head | Mean::Page => SphericalFrame::centred(&x, seed)?,
                    };
                    keys.extend(spherical(&x, &frame, format)?);
                }
                let beside = if mean == Mean::Page { 16.0 / PAGE as f64 } else { 0.0 };
                (keys, format.row_bits(dim) as f64 / dim as f64 + beside)
            }
            Self::Published(tier) => {
                let half = head.tokens() / 2 * dim;
                let books = SphericalCodebooks::train(tier, &k[..half], dim)?;
                (books.restored(k)?, tier.bits_per_channel())
            }
        })
    }
}

fn affine(x: &[f32], dim: usize, bits: usize, groups: AffineGroups) -> Result<(Vec<f32>, f64)> {
    let codes = AffineCodes::new(x, dim, bits, groups)?;
    Ok((codes.restored(), 8.0 * codes.bytes() as f64 / x.len() as f64))
}

/// What `x` `[tokens, 1, dim]` comes back as.
pub(crate) fn spherical(x: &HostTensor, frame: &SphericalFrame, format: SphericalFormat) -> Result<Vec<f32>> {
    let engine = Host::new();
    let codes = engine.quantise_spherical(x, frame, format)?;
    Ok(engine.dequantise_spherical(&codes, frame, DType::F32)?.into_f32_vec())
}
