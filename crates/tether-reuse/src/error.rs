//! What can be wrong.

use std::path::PathBuf;

use crate::engine::Shape;
use crate::lane::Lane;

/// Why a step could not be decided, stored or reused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReuseError {
    /// A setting is out of range.
    #[error("{policy}: {what} is {value}, it {requirement}")]
    Setting {
        /// The policy or combinator.
        policy: &'static str,
        /// The setting.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What it must satisfy.
        requirement: &'static str,
    },
    /// There is no policy of this name.
    #[error("no reuse policy {name:?}{}", suggestion.as_ref().map_or(String::new(), |s| format!(": do you mean {s:?}?")))]
    UnknownPolicy {
        /// What was asked for.
        name: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// A recipe could not be read.
    #[error("reuse recipe: {0}")]
    Recipe(String),
    /// The policy cannot work at this site.
    #[error("{policy} does not work at the {site} site")]
    Site {
        /// The policy.
        policy: &'static str,
        /// The site.
        site: String,
    },
    /// A run's description is not usable.
    #[error("run plan: {0}")]
    Plan(String),
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A step was asked about before a run began.
    #[error("no run has begun")]
    NotBegun,
    /// The run has fewer steps.
    #[error("step {step} of a run of {steps}")]
    StepOutOfRange {
        /// The step.
        step: u32,
        /// Steps of the run.
        steps: u32,
    },
    /// Steps of a lane must come in order: a repeated one is another run.
    #[error("{lane}: step {step} after step {last}; a new run begins with `begin`")]
    StepOrder {
        /// The lane.
        lane: Lane,
        /// The step.
        step: u32,
        /// The step before.
        last: u32,
    },
    /// A result was stored or asked for that does not answer the last decision.
    #[error("{lane}: {what} without the decision for it")]
    Undecided {
        /// The lane.
        lane: Lane,
        /// What was attempted.
        what: &'static str,
    },
    /// A tensor's shape differs from what it belongs to. Nothing was reused.
    #[error("{what} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// The shape that it should have.
        expected: Shape,
        /// The shape that it has.
        got: Shape,
    },
    /// A tensor cannot be cut into the rows that a signal needs.
    #[error("{what}: {elements} elements are not {parts} equal parts")]
    Parts {
        /// The signal.
        what: &'static str,
        /// Elements of the tensor.
        elements: usize,
        /// Parts that were asked for.
        parts: usize,
    },
}

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The header is not the TOML that it should be.
    #[error("profile header: {0}")]
    Header(String),
    /// The arrays are not a safetensors file.
    #[error("profile arrays: {0}")]
    Arrays(#[from] safetensors::SafeTensorError),
    /// The two files do not belong together.
    #[error("the profile's arrays were written for another header")]
    Unpaired,
    /// Written by another version.
    #[error("profile version {got}, this build reads {expected}")]
    Version {
        /// What this build reads.
        expected: u32,
        /// What the file has.
        got: u32,
    },
    /// A policy needs a profile and has none.
    #[error("{policy} needs a profile: make one with `tether reuse profile`")]
    Needed {
        /// The policy.
        policy: &'static str,
    },
    /// The profile is for another policy.
    #[error("a profile for {got}, {expected} needs its own")]
    Kind {
        /// The policy.
        expected: &'static str,
        /// Whose the profile is.
        got: &'static str,
    },
    /// The profile was measured on another model, schedule or resolution.
    #[error("the profile was made for {what} {profile}, this run has {run}")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// The profile's.
        profile: String,
        /// The run's.
        run: String,
    },
    /// An array is missing or has another shape.
    #[error("profile array {name}: {reason}")]
    Array {
        /// The array.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing to measure a profile on.
    #[error("calibration: {0}")]
    Calibration(String),
    /// The profile rewrites the noise levels, and this run's solver needs its own.
    #[error(
        "the profile adjusts the time steps, and the scheduler {scheduler} does not take noise levels of others"
    )]
    FixedSigmas {
        /// The run's scheduler.
        scheduler: String,
    },
}

/// `Err` unless `holds`.
pub(crate) fn require(
    holds: bool,
    policy: &'static str,
    what: &'static str,
    value: f64,
    requirement: &'static str,
) -> Result<(), ReuseError> {
    if holds { Ok(()) } else { Err(ReuseError::Setting { policy, what, value, requirement }) }
}
