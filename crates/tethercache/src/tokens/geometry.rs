//! What a cache of tokens must know of a model.

use serde::{Deserialize, Serialize};
use tether_core::{AttendOptions, CoreError, DType};

use super::TokenAttention;

/// Extents of a model's attention, and how its cache is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// How logits are made; plain attention where nothing is said.
    #[serde(default)]
    pub attention: TokenAttention,
}

impl TokenGeometry {
    /// # Errors
    /// [`CoreError::Geometry`] names the field that is out of range; those of [`TokenAttention::validate`].
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
        self.attention.validate(self.layers, self.query_heads)
    }

    /// With attention that makes logits in this way.
    #[must_use]
    pub fn with_attention(self, attention: TokenAttention) -> Self {
        Self { attention, ..self }
    }

    /// The options of a layer's attention.
    #[must_use]
    pub fn attention(&self, layer: usize) -> AttendOptions {
        self.attention.of_layer(layer, self.head_dim_k)
    }

    /// Bytes of a block: keys and values of `block_size` tokens of one head.
    pub fn block_bytes(&self) -> u64 {
        (self.block_size * (self.head_dim_k + self.head_dim_v) * self.dtype.bytes()) as u64
    }

    /// What `q.k` is multiplied by.
    pub fn scale(&self) -> f32 {
        self.attention.scale.unwrap_or_else(|| 1.0 / (self.head_dim_k as f32).sqrt())
    }

    /// Query heads of a key head.
    pub fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> TokenGeometry {
        TokenGeometry {
            layers: 2,
            query_heads: 4,
            kv_heads: 2,
            head_dim_k: 16,
            head_dim_v: 16,
            block_size: 8,
            dtype: DType::F32,
            attention: TokenAttention::default(),
        }
    }

    #[test]
    fn what_was_written_before_there_was_attention_reads() {
        let old = r#"{"layers":2,"query_heads":4,"kv_heads":2,"head_dim_k":16,"head_dim_v":16,"block_size":8,"dtype":"f32"}"#;
        let read: TokenGeometry = serde_json::from_str(old).unwrap();
        assert_eq!(read, geometry());
        assert_eq!(read.attention(1), AttendOptions::scaled(0.25));
    }

    #[test]
    fn attention_survives_a_file_and_is_checked() {
        let attention = TokenAttention { windows: vec![None, Some(4)], ..TokenAttention::default() };
        let windowed = geometry().with_attention(attention);
        assert!(windowed.validate().is_ok());
        let written = serde_json::to_string(&windowed).unwrap();
        assert_eq!(serde_json::from_str::<TokenGeometry>(&written).unwrap(), windowed);
        assert_eq!(windowed.attention(1).window, Some(4));
        let layers = TokenGeometry { layers: 3, ..windowed };
        assert!(matches!(layers.validate(), Err(CoreError::Count { what: "windows of layers", .. })));
    }
}
