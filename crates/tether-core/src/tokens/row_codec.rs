//! How rows of keys and values are coded, as recipes name it.

use serde::{Deserialize, Serialize};

use crate::{CoreError, checks};

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

/// A tier of Spherical KV as published (arXiv:2605.18856).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PublishedTier {
    /// Groups of 16 channels, 64 directions.
    High,
    /// Groups of 16 channels, 16 directions.
    Mid,
    /// Groups of 32 channels, 8 directions.
    Low,
}

impl PublishedTier {
    /// Channels of a group and bits of a direction.
    pub fn shape(self) -> (usize, u32) {
        match self {
            Self::High => (16, 6),
            Self::Mid => (16, 4),
            Self::Low => (32, 3),
        }
    }

    /// Bits of a channel without what pages store once: 8 for a radius, and the direction.
    pub fn bits_per_channel(self) -> f64 {
        let (channels, bits) = self.shape();
        f64::from(8 + bits) / channels as f64
    }
}

/// How rows of a head are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
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
    /// KIVI (arXiv:2402.02750): keys with a scale and a zero for each channel of a page, values for each row and 32
    /// channels.
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
    /// Spherical KV as published (arXiv:2605.18856), with codebooks that are trained on the rows that a head had when
    /// it was first coded.
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
                let known = matches!(bits, 1 | 2 | 3 | 4 | 6);
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

    /// Numbers of the frame that all codes of a head are relative to: a mean, or directions; 0 without one.
    pub fn frame_len(&self, head_dim: usize) -> usize {
        match *self {
            Self::Spherical { mean: MeanOf::Head, .. } => head_dim,
            Self::SphericalPublished { tier } => head_dim << tier.shape().1,
            _ => 0,
        }
    }
}
