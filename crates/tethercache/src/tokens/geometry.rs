//! What a cache of tokens must know of a model.

use serde::{Deserialize, Serialize};
use tether_core::{CoreError, DType};

/// Extents of a model's attention, and how its cache is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGeometry {
    /// Layers.
    pub layers: usize,
    /// Query heads, a multiple of `kv_heads`; query head `h` reads key head `h / (query_heads / kv_heads)`.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a key head.
    pub head_dim_k: usize,
    /// Channels of a value head.
    pub head_dim_v: usize,
    /// Tokens of a block, all of one head.
    pub block_size: usize,
    /// Element type of keys, values and queries.
    pub dtype: DType,
}

impl TokenGeometry {
    /// # Errors
    /// [`CoreError::Geometry`] names the field that is out of range.
    pub fn validate(&self) -> Result<(), CoreError> {
        let fields = [
            ("layers", self.layers),
            ("query_heads", self.query_heads),
            ("kv_heads", self.kv_heads),
            ("head_dim_k", self.head_dim_k),
            ("head_dim_v", self.head_dim_v),
            ("block_size", self.block_size),
        ];
        for (field, value) in fields {
            if value == 0 {
                return Err(CoreError::Geometry { field, value, requirement: "must be at least 1" });
            }
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            let requirement = "must be a multiple of kv_heads";
            return Err(CoreError::Geometry { field: "query_heads", value: self.query_heads, requirement });
        }
        Ok(())
    }

    /// Bytes of a block: keys and values of `block_size` tokens of one head.
    pub fn block_bytes(&self) -> u64 {
        (self.block_size * (self.head_dim_k + self.head_dim_v) * self.dtype.bytes()) as u64
    }

    /// What logits are multiplied by: `1 / sqrt(head_dim_k)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim_k as f32).sqrt()
    }

    /// Query heads of a key head.
    pub fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}
