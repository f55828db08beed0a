#![doc = include_str!("../README.md")]

mod cache;
mod error;
mod planner;
mod recipe;
mod registry;
mod requirement;
pub mod tokens;

pub use cache::{CacheBytes, KvCache, Pass, PassKind, Report, StageReport, Traffic, View};
pub use error::{Error, ErrorKind};
pub use planner::{LayerTables, Planner};
pub use recipe::{
    About, AnyRecipe, Catalogued, Compat, Keys, Place, PositionPart, Positions, Proof, Recipe, RecipeError,
    UnitKind, catalogue, unknown_recipe,
};
pub use registry::Registry;
pub use requirement::Requirement;
pub use {
    tether_codec as codec, tether_core as core, tether_edit as edit, tether_host as host,
    tether_layout as layout, tether_part as part, tether_reuse as reuse, tether_rope as rope,
    tether_score as score,
};

#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
pub use tether_kernels as kernels;

/// What most users need.
pub mod prelude {
    pub use crate::tokens::{ModelInfo, NewTokens, TokenAttention, TokenCache, TokenGeometry, TokenRecipe};
    pub use crate::{AnyRecipe, Error, KvCache, Pass, Recipe, Registry, Report};
    pub use tether_core::{ChunkIndex, DType, Engine, Geometry, HostTensor, LayerId, RopeKind};
    pub use tether_host::Host;
}

/// The repository's front page, so that its example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct FrontPage;
