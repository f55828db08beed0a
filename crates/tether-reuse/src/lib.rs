#![doc = include_str!("../README.md")]

pub mod checks;
mod combine;
mod engine;
mod error;
mod hook;
mod host;
mod lane;
mod plan;
mod policies;
mod policy;
pub mod profile;
mod recipe;
mod stats;
mod verdict;

pub use combine::{CfgLead, Forecast, Guard, Guarded, Lanes};
pub use engine::{Base, Grid, Reduction, ReuseEngine, Shape};
pub use error::{ProfileError, ReuseError};
pub use hook::StepReuse;
pub use host::HostReuse;
pub use lane::{Branch, Lane, ModuleKind, Place, Unit};
pub use plan::{RunPlan, Step};
pub use policies::{
    AdaCache, Always, Broadcast, Correct, DbCache, EasyCache, ErtaCache, FasterCache, FlowCache, FlowMode,
    Fora, MagCache, MotionRegulation, Pab, PabModule, ProfilingDit, Refresh, TaylorSeer, TeaCache,
    block_runs,
};
pub use policy::{Measure, Needs, Request, Scope, Slot, StepReusePolicy};
pub use profile::{Profile, ProfileData, ProfileHeader};
pub use recipe::{Catalogued, ForecastSpec, PolicySpec, ReuseRecipe, Site, catalogue};
pub use stats::ReuseStats;
pub use verdict::{Correction, Verdict};
