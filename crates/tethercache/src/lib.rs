#![doc = include_str!("../README.md")]

mod cache;
mod error;
mod planner;
mod recipe;
pub mod tokens;

pub use cache::{CacheBytes, KvCache, Pass, PassKind, Report, StageReport, Traffic, View};
pub use error::{Error, ErrorKind};
pub use planner::{LayerTables, Planner};
pub use recipe::{
    Catalogued, Compat, EditPart, Keys, PositionPart, Positions, Proof, Recipe, RecipeError, ScorePart,
    UnitKind, catalogue, unknown_recipe,
};
pub use {
    tether_codec as codec, tether_core as core, tether_edit as edit, tether_host as host,
    tether_layout as layout, tether_reuse as reuse, tether_rope as rope, tether_score as score,
};

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
pub use tether_kernels as kernels;

/// What most users need.
pub mod prelude {
    pub use crate::{Error, KvCache, Pass, Recipe, Report};
    pub use tether_core::{ChunkIndex, DType, Engine, Geometry, HostTensor, LayerId, RopeKind};
    pub use tether_host::Host;
}

/// The repository's front page, so that its example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct FrontPage;
