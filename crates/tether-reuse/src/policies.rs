//! The published policies, one a file.

mod accumulator;
mod ada_cache;
mod always;
mod db_cache;
mod easy_cache;
mod erta_cache;
mod faster_cache;
mod flow_cache;
mod fora;
mod mag_cache;
mod pab;
mod profiling_dit;
mod taylor_seer;
mod tea_cache;

pub use ada_cache::{AdaCache, MotionRegulation};
pub use always::Always;
pub use db_cache::DbCache;
pub use easy_cache::EasyCache;
pub use erta_cache::{Correct, ErtaCache};
pub use faster_cache::FasterCache;
pub use flow_cache::{FlowCache, FlowMode};
pub use fora::Fora;
pub use mag_cache::MagCache;
pub use pab::{Broadcast, Pab, PabModule};
pub use profiling_dit::{ProfilingDit, Refresh, block_runs};
pub(crate) use taylor_seer::MAX_ORDER;
pub use taylor_seer::TaylorSeer;
pub use tea_cache::TeaCache;
