//! Rows and what they are relative to, by the codec that a recipe names.

use std::sync::Arc;

use tether_core::{CoreError, HostTensor, RowCodec, Side, checks};

use super::{CodedRows, RowFrame};
use crate::comparison::{SphericalCodebooks, kivi_groups};
use crate::{
    AffineCodes, AffineGroups, HadamardRotation, HostSpherical, SphericalBits, SphericalFormat,
    SphericalFrame,
};

impl RowFrame {
    /// What codes of rows like `sample` `[rows, head_dim]` are relative to. `rotation` is for the codecs that rotate, and says how many channels there are.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`], [`CoreError::Count`] for part of a row or no rows where the codec learns from them, [`CoreError::NonFinite`] for a mean that no
    /// `f16` holds.
    pub fn of(codec: &RowCodec, sample: &[f32], rotation: &Arc<HadamardRotation>) -> Result<Self, CoreError> {
        let head_dim = rotation.head_dim();
        codec.validate(head_dim)?;
        checks::count("elements of whole rows", sample.len() / head_dim * head_dim, sample.len())?;
        Ok(match *codec {
            RowCodec::Half {} | RowCodec::Int { .. } | RowCodec::Kivi { .. } => Self::Plain { head_dim },
            RowCodec::Spherical { .. } => {
                let sample = rows_of(sample, head_dim)?;
                Self::Spherical(SphericalFrame::centred_in(&sample, Arc::clone(rotation))?)
            }
            RowCodec::SphericalPublished { tier } => {
                Self::Published(SphericalCodebooks::train(tier, sample, head_dim)?)
            }
        })
    }
}

impl CodedRows {
    /// Codes a page of rows `[rows, head_dim]` in a frame that this codec made.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`]; [`CoreError::Count`] for part of a row, [`CoreError::NonFinite`], [`CoreError::Unsupported`] for the frame of another codec.
    pub fn coded(codec: &RowCodec, side: Side, frame: &RowFrame, rows: &[f32]) -> Result<Self, CoreError> {
        let dim = frame.head_dim();
        codec.validate(dim)?;
        checks::count("elements of whole rows", rows.len() / dim * dim, rows.len())?;
        let affine = |bits, groups| AffineCodes::new(rows, dim, bits, groups).map(Self::Affine);
        match (*codec, frame) {
            (RowCodec::Half {}, RowFrame::Plain { .. }) => Self::half(rows, dim),
            (RowCodec::Int { bits, group }, RowFrame::Plain { .. }) => {
                affine(bits, AffineGroups::Channels(group))
            }
            (RowCodec::Kivi { bits }, RowFrame::Plain { .. }) => {
                affine(bits, kivi_groups(side, (rows.len() / dim).max(1)))
            }
            (RowCodec::Spherical { bits, .. }, RowFrame::Spherical(frame)) => {
                let bits = SphericalBits::from_bits(bits).unwrap_or(SphericalBits::Four);
                let format = SphericalFormat::of(side, bits);
                HostSpherical::coded(&rows_of(rows, dim)?, frame, format).map(Self::Spherical)
            }
            (RowCodec::SphericalPublished { .. }, RowFrame::Published(books)) => {
                books.encode(rows).map(Self::Published)
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

/// Bytes of the codes of a page of `rows` rows, with what goes beside them for rows, groups and pages.
pub fn page_bytes(codec: &RowCodec, side: Side, rows: usize, head_dim: usize) -> usize {
    let affine = |bits: usize, groups: AffineGroups| {
        (rows * head_dim * bits).div_ceil(8) + 4 * groups.count(rows, head_dim)
    };
    match *codec {
        RowCodec::Half {} => 2 * rows * head_dim,
        RowCodec::Int { bits, group } => affine(bits, AffineGroups::Channels(group)),
        RowCodec::Kivi { bits } => affine(bits, kivi_groups(side, rows.max(1))),
        RowCodec::Spherical { bits, .. } => {
            let mean = if codec.frame_of_page() { 2 * head_dim } else { 0 };
            rows * ((head_dim * bits).div_ceil(32) * 4 + 2) + mean
        }
        RowCodec::SphericalPublished { tier } => {
            let (channels, bits) = tier.shape();
            let groups = head_dim / channels;
            (rows * groups * bits as usize).div_ceil(8) + rows * groups + 4 * groups
        }
    }
}
