//! The part that says how tokens are stored that are no longer new.

use serde::{Deserialize, Serialize};
use tether_codec::{MeanOf, RowCodec, SphericalBits};
use tether_core::{CoreError, checks};

/// Which heads share a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BudgetScope {
    /// None: every head has its own.
    #[default]
    Head,
    /// Those of a layer.
    Layer,
    /// All of a sequence.
    All,
}

/// Bits that a token is worth, or none and it leaves, under one budget (`tether_score::tokens::allocate`). Codes are spherical, with as many bits for a token's key as for its
/// value; the `bits` of the codecs are the most that one can have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionPart {
    /// Bits of a channel, on average over all tokens that were coded or have left: what codes, radii, positions and headers may take. Means of heads are not
    /// part of it.
    pub bits: f32,
    /// Last tokens whose queries say what tokens are worth: 1 to `recent`.
    pub window: usize,
    /// Who shares a budget.
    #[serde(default)]
    pub scope: BudgetScope,
    /// Tokens between allocations, at least 1. What has lost bits does not get them back.
    pub every: usize,
    /// Share of its distortion that a token is forgiven for staying as it is, at least 0 and below 1.
    #[serde(default)]
    pub hysteresis: f32,
}

/// Codes instead of numbers for all tokens but the first and the newest ones. A token is coded once the newest ones are so many that it and the rest of its page may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecPart {
    /// Codec of keys.
    pub keys: RowCodec,
    /// Codec of values.
    pub values: RowCodec,
    /// First tokens, which stay as they are.
    pub sink: usize,
    /// Newest tokens of which at least so many stay as they are, at least 1.
    pub recent: usize,
    /// Tokens of a page, which are coded together: 1 to 256.
    pub page: usize,
    /// Bits by what a token is worth, instead of the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionPart>,
}

impl CodecPart {
    /// Checks the settings, for heads of any size.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] names what is out of range.
    pub fn validate(&self) -> Result<(), CoreError> {
        // Sizes of heads are checked where they are known; all codecs take heads of 32 channels.
        self.suits(32, 32)?;
        checks::setting(self.recent > 0, "codec.recent", self.recent, "must be at least 1")?;
        checks::setting((1..=256).contains(&self.page), "codec.page", self.page, "must be 1 to 256")?;
        self.retention.iter().try_for_each(|part| part.validate(self.recent))
    }

    /// Bits that tokens may have under retention, ascending; `None` where keys and values are not coded alike.
    pub fn widths(&self) -> Option<&'static [SphericalBits]> {
        let most = match (self.keys, self.values) {
            (RowCodec::Spherical { bits, mean: MeanOf::Head }, values) if self.keys == values => bits,
            _ => return None,
        };
        let count = SphericalBits::ALL.iter().take_while(|b| b.bits() <= most).count();
        Some(&SphericalBits::ALL[..count])
    }

    /// Heads of these sizes can be coded.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] names what is out of range.
    pub fn suits(&self, head_dim_k: usize, head_dim_v: usize) -> Result<(), CoreError> {
        self.keys.validate(head_dim_k)?;
        self.values.validate(head_dim_v)
    }

    /// How many of `tokens` tokens that are stored as they are, sinks among them, are coded next: whole pages, or what is allocated at a time, of those that are neither
    /// first nor newest.
    pub fn leaving(&self, tokens: usize) -> usize {
        let together = self.retention.map_or(self.page, |part| part.every);
        tokens.saturating_sub(self.sink + self.recent) / together * together
    }
}

impl RetentionPart {
    fn validate(&self, recent: usize) -> Result<(), CoreError> {
        // Fields of an error are whole numbers; what is meant is clear all the same.
        let bits = (0.0..=16.0).contains(&self.bits);
        checks::setting(bits, "codec.retention.bits", self.bits as usize, "must be 0 to 16")?;
        let window = (1..=recent).contains(&self.window);
        checks::setting(window, "codec.retention.window", self.window, "must be 1 to codec.recent")?;
        checks::setting(self.every > 0, "codec.retention.every", self.every, "must be at least 1")?;
        let hysteresis = (0.0..1.0).contains(&self.hysteresis);
        checks::setting(
            hysteresis,
            "codec.retention.hysteresis",
            self.hysteresis as usize,
            "must be at least 0 and below 1",
        )
    }
}
