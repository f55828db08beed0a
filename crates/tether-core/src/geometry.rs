//! The shapes of a model's cache, validated once.

use serde::{Deserialize, Serialize};
use smallvec::smallvec;

use crate::tensor::element_count;
use crate::{CoreError, DType, RopeKind, Shape};

/// Shapes of a model's keys and values.
///
/// K, V and Q of one layer and pass are `[units_per_chunk * tokens_per_unit, heads, head_dim]` (NHD), with a leading
/// `sequences` axis when there is more than one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Attention layers.
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a key head (and of a query head).
    pub head_dim_k: usize,
    /// Channels of a value head.
    pub head_dim_v: usize,
    /// Tokens of a unit (a latent frame, a chunk, or 1 for token units).
    pub tokens_per_unit: usize,
    /// Units that one pass writes.
    pub units_per_chunk: usize,
    /// Sequences that are generated side by side.
    pub sequences: usize,
    /// Storage type of K and V.
    pub dtype: DType,
    /// Position embedding of queries and keys.
    pub rope: RopeKind,
}

impl Geometry {
    /// Checks every field and every size derived from them.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] names the first field out of range; [`CoreError::SizeOverflow`] a size that does not fit.
    pub fn validate(&self) -> Result<(), CoreError> {
        let bad = |field, value, requirement| Err(CoreError::Geometry { field, value, requirement });
        for (field, value) in [
            ("layers", self.layers),
            ("query_heads", self.query_heads),
            ("kv_heads", self.kv_heads),
            ("head_dim_k", self.head_dim_k),
            ("head_dim_v", self.head_dim_v),
            ("tokens_per_unit", self.tokens_per_unit),
            ("units_per_chunk", self.units_per_chunk),
            ("sequences", self.sequences),
        ] {
            if value == 0 {
                return bad(field, value, "must be at least 1");
            }
        }
        if self.layers > u32::MAX as usize {
            return bad("layers", self.layers, "must fit 32 bits");
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            return bad("query_heads", self.query_heads, "must be a multiple of kv_heads");
        }
        match self.rope {
            RopeKind::None => {}
            _ if !self.head_dim_k.is_multiple_of(2) => {
                return bad("head_dim_k", self.head_dim_k, "must be even to be rotated in pairs");
            }
            RopeKind::OneD { .. } => {}
            RopeKind::ThreeD { height, width, .. } => {
                if height.checked_mul(width) != Some(self.tokens_per_unit) {
                    return bad(
                        "tokens_per_unit",
                        self.tokens_per_unit,
                        "must be height * width of the 3-D RoPE",
                    );
                }
            }
        }
        for dim in [self.head_dim_k, self.head_dim_v] {
            element_count(&[self.sequences, self.tokens_per_chunk_checked()?, self.query_heads, dim, 4])?;
        }
        Ok(())
    }

    fn tokens_per_chunk_checked(&self) -> Result<usize, CoreError> {
        element_count(&[self.units_per_chunk, self.tokens_per_unit])
    }

    /// Tokens that one pass writes and asks.
    pub fn tokens_per_chunk(&self) -> usize {
        self.units_per_chunk * self.tokens_per_unit
    }

    /// Shape of a pass's K.
    pub fn key_shape(&self) -> Shape {
        self.with_sequences(self.kv_heads, self.head_dim_k)
    }

    /// Shape of a pass's V.
    pub fn value_shape(&self) -> Shape {
        self.with_sequences(self.kv_heads, self.head_dim_v)
    }

    /// Shape of a pass's Q.
    pub fn query_shape(&self) -> Shape {
        self.with_sequences(self.query_heads, self.head_dim_k)
    }

    /// Shape of a pass's attention output.
    pub fn output_shape(&self) -> Shape {
        self.with_sequences(self.query_heads, self.head_dim_v)
    }

    fn with_sequences(&self, heads: usize, dim: usize) -> Shape {
        let tokens = self.tokens_per_chunk();
        if self.sequences == 1 {
            smallvec![tokens, heads, dim]
        } else {
            smallvec![self.sequences, tokens, heads, dim]
        }
    }

    /// Bytes of K and V of one unit of one layer and sequence.
    pub fn unit_bytes(&self) -> usize {
        self.tokens_per_unit * self.kv_heads * (self.head_dim_k + self.head_dim_v) * self.dtype.bytes()
    }
}
