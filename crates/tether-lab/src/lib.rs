//! The laboratory: what recipes cost and save, measured on real models, and shown.
//!
//! * [`video`]: a small video model continues the same scenes under several recipes; pictures and a report.
//! * [`reuse`]: policies of step reuse, and profiles for them.
//! * `eval`, `generate` and `profile` (feature `language`): what recipes do to a language model.
//!
//! One [`Estimate`](estimate::Estimate), one [`Table`](table::Table), one writer of charts.

mod artefacts;
pub mod budget;
mod calibration;
mod chart;
pub mod checksum;
pub mod device;
pub mod estimate;
#[cfg(feature = "language")]
pub mod eval;
#[cfg(feature = "language")]
pub mod generate;
pub mod head_profile;
pub mod input;
#[cfg(feature = "language")]
mod language;
#[cfg(feature = "language")]
pub mod profile;
pub mod progress;
pub mod reuse;
mod rollout;
#[cfg(feature = "language")]
mod samples;
pub mod table;
pub mod usage;
pub mod video;
mod workers;
