//! The facade's errors.

use tether_core::{ChunkIndex, CoreError, LayerId};
use tether_edit::EditError;
use tether_layout::LayoutError;
use tether_rope::RopeError;
use tether_score::ScoreError;

use crate::RecipeError;

/// Why a call was refused. The cache is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe that cannot be read or whose parts do not fit.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Shapes, dtypes, NaN, and the device.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// Region sizes and slots.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Scores that cannot be ranked.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// Edits.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Rotations.
    #[error(transparent)]
    Rope(#[from] RopeError),
    /// A layer that the geometry does not have.
    #[error("layer {layer} does not exist: the geometry has {layers} layers")]
    NoSuchLayer {
        /// The layer asked for.
        layer: LayerId,
        /// Layers there are.
        layers: usize,
    },
    /// A sequence that the geometry does not have.
    #[error("sequence {sequence} does not exist: the geometry has {sequences} sequences")]
    NoSuchSequence {
        /// The sequence asked for.
        sequence: usize,
        /// Sequences there are.
        sequences: usize,
    },
    /// A sequence that this cache of tokens never made, or has dropped.
    #[error("there is no sequence {sequence}")]
    UnknownSequence {
        /// Its number.
        sequence: u32,
    },
    /// What is to be a probe of a sequence is not a fork of it that has read probe tokens, and only those.
    #[error(
        "sequence {probe} is not a fork of sequence {sequence} that has read the probe tokens that its recipe asks for"
    )]
    NotAProbe {
        /// The sequence that was to be probed.
        sequence: u32,
        /// The one that is not its probe.
        probe: u32,
    },
    /// More tokens are to be taken back than have come since the last eviction, choice or coding.
    #[error(
        "{tokens} tokens of sequence {sequence} cannot be taken back: {newest} have come since its lists were last changed"
    )]
    Settled {
        /// The sequence.
        sequence: u32,
        /// Tokens that were to be taken back.
        tokens: usize,
        /// Tokens that can be.
        newest: usize,
    },
    /// Layers take the same tokens, one layer after the other.
    #[error("layer {layer} has {got} tokens where the layer before it has {expected}")]
    LayerTokens {
        /// The layer.
        layer: LayerId,
        /// Tokens that the layer before has had.
        expected: usize,
        /// Tokens that this one would have.
        got: usize,
    },
    /// Chunks come one after the other, and each is committed before the next begins.
    #[error("layer {layer}: chunk {expected} is next, got chunk {got}")]
    ChunkOrder {
        /// The layer.
        layer: LayerId,
        /// The chunk that may come.
        expected: ChunkIndex,
        /// The chunk that came.
        got: ChunkIndex,
    },
    /// The layer before has not seen this chunk, or another layer has not committed the one before it.
    #[error("layer {layer} cannot take chunk {chunk}: layer {behind} is behind")]
    LayerOrder {
        /// The layer that was called.
        layer: LayerId,
        /// The chunk.
        chunk: ChunkIndex,
        /// The layer that must come first.
        behind: LayerId,
    },
    /// A commit needs the chunk's clean keys and values in the cache.
    #[error("layer {layer}, chunk {chunk}: commit before the clean pass wrote its keys and values")]
    CleanPassWithoutWrite {
        /// The layer.
        layer: LayerId,
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// A recall works on the chunk whose passes are under way.
    #[error("layer {layer}: recall without a chunk whose keys and values are in the cache")]
    RecallWithoutChunk {
        /// The layer.
        layer: LayerId,
    },
    /// Nothing to attend to yet.
    #[error("layer {layer} is empty")]
    Empty {
        /// The layer.
        layer: LayerId,
    },
}

/// A coarse classification, for callers that only decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's input is wrong.
    Invalid,
    /// Right, but not possible here.
    Unsupported,
    /// No slot is free.
    OutOfSlots,
    /// The device failed.
    Device,
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        let of_core = |e: &CoreError| match e {
            CoreError::Device { .. } => ErrorKind::Device,
            CoreError::Unsupported { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        };
        match self {
            Self::Core(e) | Self::Rope(RopeError::Core(e)) | Self::Score(ScoreError::Core(e)) => of_core(e),
            Self::Layout(LayoutError::OutOfSlots { .. }) => ErrorKind::OutOfSlots,
            Self::Recipe(RecipeError::Combination { .. }) => ErrorKind::Unsupported,
            Self::Recipe(RecipeError::OutOfRange { problem, .. }) => problem.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
