//! What is cached by itself: a place in the model, of a chunk, of a guidance branch.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a module computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// Attention within a frame.
    SpatialAttention,
    /// Attention between frames, or over all tokens at once.
    TemporalAttention,
    /// Attention to the prompt.
    CrossAttention,
    /// The feed-forward network.
    Mlp,
}

/// The place in a model whose work is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The whole model: latent in, prediction out. Their difference is kept.
    Model,
    /// The solver: latent before a step, latent after it. Their difference is kept.
    Solver,
    /// A run of blocks, numbered from 0: hidden state in, hidden state out. Their difference is kept.
    Span(u16),
    /// A module: its output, before the gate, is kept.
    Module {
        /// The block.
        layer: u16,
        /// Which of its modules.
        kind: ModuleKind,
    },
}

impl Place {
    /// Whether what is kept is a difference, which is added to the input of the step that reuses it.
    pub fn keeps_difference(self) -> bool {
        !matches!(self, Self::Module { .. })
    }
}

/// A place and the chunk of an autoregressive video that passes through it (0 where there are none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// The chunk.
    pub chunk: u64,
    /// The place.
    pub place: Place,
}

impl Unit {
    /// `place`, of chunk 0.
    pub const fn new(place: Place) -> Self {
        Self { chunk: 0, place }
    }
}

/// A branch of classifier-free guidance. Models without guidance have the conditional one only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Branch {
    /// With the prompt.
    #[default]
    Conditional,
    /// Without.
    Unconditional,
}

/// What has a cache of its own. Lanes never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Place and chunk.
    pub unit: Unit,
    /// Guidance branch.
    pub branch: Branch,
}

impl Lane {
    /// `place` of chunk 0, conditional.
    pub const fn new(place: Place) -> Self {
        Self { unit: Unit::new(place), branch: Branch::Conditional }
    }

    /// The same lane of another chunk.
    #[must_use]
    pub const fn of_chunk(mut self, chunk: u64) -> Self {
        self.unit.chunk = chunk;
        self
    }

    /// The unconditional branch of the same unit.
    #[must_use]
    pub const fn unconditional(mut self) -> Self {
        self.branch = Branch::Unconditional;
        self
    }
}

impl From<Place> for Lane {
    fn from(place: Place) -> Self {
        Self::new(place)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit.place {
            Place::Model => write!(f, "model")?,
            Place::Solver => write!(f, "solver")?,
            Place::Span(n) => write!(f, "span {n}")?,
            Place::Module { layer, kind } => write!(f, "block {layer} {kind:?}")?,
        }
        write!(f, ", chunk {}, {:?}", self.unit.chunk, self.branch)
    }
}
