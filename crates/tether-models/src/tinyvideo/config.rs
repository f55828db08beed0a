//! TinyVideo's dimensions.

use serde::{Deserialize, Serialize};

use crate::frame::{TOKEN_VALUES, TOKENS_PER_FRAME};

/// The dimensions of a TinyVideo model; [`Default`] is the published one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TinyVideoConfig {
    /// Channels of the residual stream.
    pub dim: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Channels inside the feed-forward network.
    pub ffn: usize,
    /// Sinusoidal features of the time embedding.
    pub freq_dim: usize,
    /// Frames of a chunk.
    pub chunk_frames: usize,
    /// Tokens of a frame.
    pub tokens_per_frame: usize,
    /// Pixel values of a token.
    pub token_values: usize,
    /// Frames of a training window: positions from this number on were never seen.
    pub train_frames: usize,
}

impl Default for TinyVideoConfig {
    fn default() -> Self {
        Self {
            dim: 192,
            layers: 8,
            heads: 3,
            head_dim: 64,
            ffn: 768,
            freq_dim: 256,
            chunk_frames: 3,
            tokens_per_frame: TOKENS_PER_FRAME,
            token_values: TOKEN_VALUES,
            train_frames: 21,
        }
    }
}

impl TinyVideoConfig {
    /// Tokens of a chunk.
    pub fn chunk_tokens(&self) -> usize {
        self.chunk_frames * self.tokens_per_frame
    }

    /// Pixel values of a chunk: the length of a forward pass's input and output.
    pub fn chunk_values(&self) -> usize {
        self.chunk_tokens() * self.token_values
    }
}
