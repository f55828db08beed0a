//! Profiles: what is measured once for a model, a schedule and a resolution, and then refused everywhere else.
//!
//! A profile is two files: a header, `NAME.toml`, that a person can read, and arrays, `NAME.safetensors`. The arrays carry a copy of the
//! header, so that files of two profiles cannot be mixed.

mod arrays;
mod blocks;
mod erta;
mod files;
mod magnitude;
mod polynomial;

use serde::{Deserialize, Serialize};

pub use blocks::{BlockProfiler, received_attention};
pub use erta::{ErtaCalibration, ErtaChoice, LineFit, adjusted_sigmas, choose, fraction_kept};
pub use magnitude::MagCalibration;
pub use polynomial::TeaCalibration;

use crate::{ProfileError, RunPlan};

/// The version of the format that this build reads and writes.
pub const VERSION: u32 = 1;

/// What a profile was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileHeader {
    /// The format's version.
    pub version: u32,
    /// The policy, by name.
    pub policy: String,
    /// The model.
    pub model: String,
    /// Steps.
    pub steps: u32,
    /// The scheduler with its settings.
    pub scheduler: String,
    /// The class of resolutions.
    pub resolution: String,
    /// Guidance scale.
    pub guidance: f32,
    /// What it was measured on, for a person.
    #[serde(default)]
    pub prompts: String,
    /// How it was measured, for a person.
    #[serde(default)]
    pub settings: String,
}

impl ProfileHeader {
    /// The header of a profile for `policy`, measured on runs of `plan`.
    pub fn new(policy: &str, plan: &RunPlan, prompts: &str, settings: &str) -> Self {
        Self {
            version: VERSION,
            policy: policy.to_owned(),
            model: plan.model.clone(),
            steps: plan.steps(),
            scheduler: plan.scheduler.clone(),
            resolution: plan.resolution.clone(),
            guidance: plan.guidance,
            prompts: prompts.to_owned(),
            settings: settings.to_owned(),
        }
    }

    /// Refuses a run of another kind.
    ///
    /// # Errors
    /// [`ProfileError::Version`], [`ProfileError::Mismatch`].
    pub fn check(&self, plan: &RunPlan) -> Result<(), ProfileError> {
        if self.version != VERSION {
            return Err(ProfileError::Version { expected: VERSION, got: self.version });
        }
        let pairs = [
            ("model", self.model.clone(), plan.model.clone()),
            ("steps", self.steps.to_string(), plan.steps().to_string()),
            ("scheduler", self.scheduler.clone(), plan.scheduler.clone()),
            ("resolution", self.resolution.clone(), plan.resolution.clone()),
            ("guidance", self.guidance.to_string(), plan.guidance.to_string()),
        ];
        match pairs.into_iter().find(|(_, profile, run)| profile != run) {
            Some((what, profile, run)) => Err(ProfileError::Mismatch { what, profile, run }),
            None => Ok(()),
        }
    }
}

/// What ERTACache measures.
#[derive(Clone, Debug, PartialEq)]
pub struct ErtaData {
    /// Whether a step is reused, by step.
    pub reuse: Vec<bool>,
    /// Part of its length that a step keeps, by step.
    pub phi: Vec<f32>,
    /// Noise levels that follow from `phi`: one more than steps.
    pub sigmas: Vec<f32>,
    /// Slopes of the error, `[steps, groups]`.
    pub a: Vec<f32>,
    /// Offsets of the error, `[steps, groups]`.
    pub b: Vec<f32>,
    /// 1, or the number of innermost channels.
    pub groups: usize,
}

/// The measurements of a profile.
#[derive(Clone, Debug, PartialEq)]
pub enum ProfileData {
    /// ERTACache.
    Erta(ErtaData),
    /// MagCache: ratio of a residual's length to the one before, by step.
    Mag {
        /// One per step.
        ratios: Vec<f64>,
    },
    /// TeaCache.
    Tea {
        /// Coefficients, highest power first.
        polynomial: Vec<f64>,
    },
    /// ProfilingDiT.
    Blocks {
        /// Part of the foreground that a block attends to, by block.
        foreground: Vec<f32>,
        /// Blocks that are cached.
        background: Vec<u16>,
    },
}

impl ProfileData {
    /// The policy whose data this is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Erta(_) => "ertacache",
            Self::Mag { .. } => "magcache",
            Self::Tea { .. } => "teacache",
            Self::Blocks { .. } => "profiling-dit",
        }
    }
}

/// A profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What it was measured on.
    pub header: ProfileHeader,
    /// What was measured.
    pub data: ProfileData,
}

impl Profile {
    /// Checks that the arrays fit the header and hold sensible numbers.
    ///
    /// # Errors
    /// [`ProfileError::Version`], [`ProfileError::Kind`], [`ProfileError::Array`].
    pub fn validate(&self) -> Result<(), ProfileError> {
        if self.header.version != VERSION {
            return Err(ProfileError::Version { expected: VERSION, got: self.header.version });
        }
        if self.header.policy != self.data.kind() {
            let reason = format!("the header is for {}", self.header.policy);
            return Err(ProfileError::Array { name: self.data.kind(), reason });
        }
        let steps = self.header.steps as usize;
        match &self.data {
            ProfileData::Erta(d) => {
                length("reuse", d.reuse.len(), steps)?;
                length("phi", d.phi.len(), steps)?;
                length("sigmas", d.sigmas.len(), steps + 1)?;
                holds("groups", d.groups > 0, "is 0")?;
                let lines = steps.saturating_mul(d.groups);
                length("a", d.a.len(), lines)?;
                length("b", d.b.len(), lines)?;
                holds("phi", d.phi.iter().all(|x| (0.0..=1.0).contains(x)), "leaves 0..=1")?;
                holds("a", d.a.iter().all(|x| x.is_finite()), "is not finite")?;
                holds("b", d.b.iter().all(|x| x.is_finite()), "is not finite")?;
                holds("reuse", d.reuse.first() != Some(&true), "reuses step 0, which has nothing before it")?;
                let falls =
                    d.sigmas.windows(2).all(|w| w[1] < w[0]) && d.sigmas.iter().all(|s| s.is_finite());
                holds("sigmas", falls, "does not fall")
            }
            ProfileData::Mag { ratios } => {
                length("ratios", ratios.len(), steps)?;
                holds(
                    "ratios",
                    ratios.iter().all(|x| x.is_finite() && *x >= 0.0),
                    "is negative or not finite",
                )
            }
            ProfileData::Tea { polynomial } => {
                let sound = !polynomial.is_empty() && polynomial.iter().all(|x| x.is_finite());
                holds("polynomial", sound, "is empty or not finite")
            }
            ProfileData::Blocks { foreground, background } => {
                let blocks = foreground.len();
                let inside = background.iter().all(|b| usize::from(*b) < blocks);
                holds("background", inside, "names a block that was not measured")?;
                holds("background", background.windows(2).all(|w| w[0] < w[1]), "does not rise")?;
                holds("foreground", foreground.iter().all(|x| (0.0..=1.0).contains(x)), "leaves 0..=1")
            }
        }
    }
}

fn length(name: &'static str, got: usize, expected: usize) -> Result<(), ProfileError> {
    if got == expected {
        return Ok(());
    }
    Err(ProfileError::Array { name, reason: format!("{got} entries, expected {expected}") })
}

fn holds(name: &'static str, sound: bool, otherwise: &str) -> Result<(), ProfileError> {
    if sound { Ok(()) } else { Err(ProfileError::Array { name, reason: otherwise.to_owned() }) }
}
