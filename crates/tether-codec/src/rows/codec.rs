//! Which codec, as recipes name it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tether_core::{CoreError, HostTensor, Side, checks};

use super::{CodedRows, RowFrame};
use crate::comparison::{AffineCodes, AffineGroups, PublishedTier, SphericalCodebooks, kivi_groups};
use crate::{HadamardRotation, HostSpherical, SphericalBits, SphericalFormat, SphericalFrame};

/// What spherical codes are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MeanOf {
    /// The mean of the rows that a head had when it was first coded. It costs nothing per row.
    #[default]
    Head,
    /// The mean of each page, an `f16` for each channel and page.
    Page,
}

/// How rows of a head are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RowCodec {
    /// `f16`: 16 bits.
    Half {},
    /// Whole numbers, with a scale and a zero (`f16` each) for each row and `group` channels: `bits + 32 / group` bits.
    Int {
        /// Bits of a code, 1 to 8.
        bits: usize,
        /// Channels that share a scale; the last group of a head may have fewer.
        group: usize,
    },
    /// KIVI (arXiv:2402.02750): keys with a scale and a zero for each channel of a page, values for each row and 32 channels.
    Kivi {
        /// Bits of a code, 1 to 8.
        bits: usize,
    },
    /// Spherical codes: `bits + 16 / head_dim` bits, and 16 more for each channel and page where the mean is a page's.
    Spherical {
        /// Bits of a code: 1, 2, 3, 4 or 6.
        bits: usize,
        /// What they are relative to.
        #[serde(default)]
        mean: MeanOf,
    },
    /// Spherical KV as published (arXiv:2605.18856), with codebooks that are trained on the rows that a head had when it was first coded.
    SphericalPublished {
        /// How finely.
        tier: PublishedTier,
    },
}

impl RowCodec {
    /// Rows of `head_dim` channels can be coded so.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] names what is out of range.
    pub fn validate(&self, head_dim: usize) -> Result<(), CoreError> {
        checks::setting(head_dim > 0, "head_dim", head_dim, "must be at least 1")?;
        match *self {
            Self::Half {} => Ok(()),
            Self::Int { bits, group } => {
                checks::setting((1..=8).contains(&bits), "bits", bits, "must be 1 to 8")?;
                checks::setting(group > 0, "group", group, "must be at least 1")
            }
            Self::Kivi { bits } => checks::setting((1..=8).contains(&bits), "bits", bits, "must be 1 to 8"),
            Self::Spherical { bits, .. } => {
                let known = SphericalBits::from_bits(bits).is_some();
                checks::setting(known, "bits", bits, "must be 1, 2, 3, 4 or 6")?;
                let whole = head_dim.is_multiple_of(8);
                checks::setting(whole, "head_dim", head_dim, "must be a multiple of 8 for spherical codes")
            }
            Self::SphericalPublished { tier } => {
                let whole = head_dim.is_multiple_of(tier.shape().0);
                checks::setting(whole, "head_dim", head_dim, "must be a multiple of the tier's groups")
            }
        }
    }

    /// True when each page has a frame of its own.
    pub fn frame_of_page(&self) -> bool {
        matches!(self, Self::Spherical { mean: MeanOf::Page, .. })
    }

    /// What codes of rows like `sample` `[rows, head_dim]` are relative to. `rotation` is for the codecs that rotate, and says how many channels there are.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`], [`CoreError::Count`] for part of a row or no rows where the codec learns from them, [`CoreError::NonFinite`] for a mean that no
    /// `f16` holds.
    pub fn frame(&self, sample: &[f32], rotation: &Arc<HadamardRotation>) -> Result<RowFrame, CoreError> {
        let head_dim = rotation.head_dim();
        self.validate(head_dim)?;
        checks::count("elements of whole rows", sample.len() / head_dim * head_dim, sample.len())?;
        Ok(match *self {
            Self::Half {} | Self::Int { .. } | Self::Kivi { .. } => RowFrame::Plain { head_dim },
            Self::Spherical { .. } => {
                let sample = rows_of(sample, head_dim)?;
                RowFrame::Spherical(SphericalFrame::centred_in(&sample, Arc::clone(rotation))?)
            }
            Self::SphericalPublished { tier } => {
                RowFrame::Published(SphericalCodebooks::train(tier, sample, head_dim)?)
            }
        })
    }

    /// Codes a page of rows `[rows, head_dim]` in a frame that this codec made.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`]; [`CoreError::Count`] for part of a row, [`CoreError::NonFinite`], [`CoreError::Unsupported`] for the frame of another codec.
    pub fn encode(&self, side: Side, frame: &RowFrame, rows: &[f32]) -> Result<CodedRows, CoreError> {
        let dim = frame.head_dim();
        self.validate(dim)?;
        checks::count("elements of whole rows", rows.len() / dim * dim, rows.len())?;
        let affine = |bits, groups| AffineCodes::new(rows, dim, bits, groups).map(CodedRows::Affine);
        match (*self, frame) {
            (Self::Half {}, RowFrame::Plain { .. }) => CodedRows::half(rows, dim),
            (Self::Int { bits, group }, RowFrame::Plain { .. }) => {
                affine(bits, AffineGroups::Channels(group))
            }
            (Self::Kivi { bits }, RowFrame::Plain { .. }) => {
                affine(bits, kivi_groups(side, (rows.len() / dim).max(1)))
            }
            (Self::Spherical { bits, .. }, RowFrame::Spherical(frame)) => {
                let bits = SphericalBits::from_bits(bits).unwrap_or(SphericalBits::Four);
                let format = SphericalFormat::of(side, bits);
                HostSpherical::coded(&rows_of(rows, dim)?, frame, format).map(CodedRows::Spherical)
            }
            (Self::SphericalPublished { .. }, RowFrame::Published(books)) => {
                books.encode(rows).map(CodedRows::Published)
            }
            _ => {
                let feature = "codes in the frame of another codec";
                Err(CoreError::Unsupported { engine: "the host", feature })
            }
        }
    }
}

/// Rows as a tensor of one head.
fn rows_of(rows: &[f32], head_dim: usize) -> Result<HostTensor, CoreError> {
    HostTensor::from_f32(&[rows.len() / head_dim, 1, head_dim], rows.to_vec())
}
