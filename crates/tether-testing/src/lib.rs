//! What TetherCache's tests share: plain `f64` oracles, tolerances in one table, and golden files.

pub mod backends;
pub mod codec_cases;
pub mod engine_cases;
mod golden;
mod host_runs;
mod naive;
pub mod oracle;
pub mod reuse_cases;
mod runtime;
mod tensors;
pub mod token_cases;
mod tolerance;

pub use golden::{Golden, golden_json, golden_path};
pub use host_runs::{on_host, on_host_for_all_dtypes};
pub use naive::{NaiveCache, NaiveSettings, NaiveStep};
pub use oracle::{dense_attention, literal_mean_logits, rotate_3d, token_moments};
pub use runtime::or_skip;
pub use tolerance::{Op, Tolerance, assert_close, tolerance};
