//! How whole units, such as frames of a video, are stored as codes.

use serde::{Deserialize, Serialize};
use tether_core::{CoreError, MeanOf, RowCodec, Side};

/// How units are stored. A unit's head is a page: what codes share, they share within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitCodec {
    /// Codec of keys, un-rotated.
    pub keys: RowCodec,
    /// Codec of values.
    pub values: RowCodec,
}

impl UnitCodec {
    /// Heads of these sizes can be coded.
    ///
    /// # Errors
    /// Those of [`RowCodec::validate`]; [`CoreError::Unsupported`] for codecs that learn from a whole sequence.
    pub fn validate(&self, head_dim_k: usize, head_dim_v: usize) -> Result<(), CoreError> {
        for (codec, dim) in [(&self.keys, head_dim_k), (&self.values, head_dim_v)] {
            codec.validate(dim)?;
            let feature = match codec {
                RowCodec::Spherical { mean: MeanOf::Head, .. } => {
                    "units whose mean is a head's: say mean = \"page\""
                }
                RowCodec::SphericalPublished { .. } => "units with trained directions",
                _ => continue,
            };
            return Err(CoreError::Unsupported { engine: "host, coded", feature });
        }
        Ok(())
    }

    /// The codec of a side.
    pub fn of(&self, side: Side) -> &RowCodec {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}
