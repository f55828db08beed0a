//! A run, and a step of it.

use crate::ReuseError;
use crate::engine::Grid;
use crate::lane::{Branch, Unit};

/// What a policy must know of a run before it begins. A profile is refused when it was made for another.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// The model, by name.
    pub model: String,
    /// The scheduler with its settings, such as `euler shift=2`.
    pub scheduler: String,
    /// The class of resolutions, such as `480p` or `32x32x3`.
    pub resolution: String,
    /// Noise levels, falling: one more than there are steps.
    pub sigmas: Vec<f32>,
    /// Guidance scale; 1 without guidance.
    pub guidance: f32,
    /// Whether the solver takes any falling noise levels: multi-step solvers do not.
    pub free_sigmas: bool,
    /// How tensors are cut into frames and tokens, for the signals that ask.
    pub grid: Grid,
}

impl RunPlan {
    /// A run of a single-step solver over `sigmas`, without guidance.
    pub fn new(model: &str, scheduler: &str, resolution: &str, sigmas: &[f32]) -> Self {
        Self {
            model: model.to_owned(),
            scheduler: scheduler.to_owned(),
            resolution: resolution.to_owned(),
            sigmas: sigmas.to_vec(),
            guidance: 1.0,
            free_sigmas: true,
            grid: Grid { frames: 1, tokens: 1 },
        }
    }

    /// Steps of the run.
    pub fn steps(&self) -> u32 {
        self.sigmas.len().saturating_sub(1) as u32
    }

    /// Checks that noise levels are finite and fall.
    ///
    /// # Errors
    /// [`ReuseError::Plan`].
    pub fn validate(&self) -> Result<(), ReuseError> {
        if !(2..=100_001).contains(&self.sigmas.len()) {
            let n = self.sigmas.len();
            return Err(ReuseError::Plan(format!("{n} noise levels, needed are 2 to 100001")));
        }
        if self.sigmas.iter().any(|s| !s.is_finite()) || self.sigmas.windows(2).any(|w| w[1] >= w[0]) {
            return Err(ReuseError::Plan("noise levels must be finite and fall".to_owned()));
        }
        if self.grid.frames == 0 || self.grid.tokens == 0 {
            return Err(ReuseError::Plan("a grid without frames or tokens".to_owned()));
        }
        Ok(())
    }

    /// Step `index` of a unit that has been decided `unit_step` times before.
    pub(crate) fn step(&self, index: u32, unit: Unit, branch: Branch, unit_step: u32) -> Step {
        let at = |i: u32| self.sigmas.get(i as usize).copied().unwrap_or(0.0);
        Step {
            index,
            steps: self.steps(),
            sigma: at(index),
            sigma_next: at(index + 1),
            unit,
            branch,
            unit_step,
        }
    }
}

/// A step of a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Number of the model call within its branch, from 0, the noisiest.
    pub index: u32,
    /// Steps of the run.
    pub steps: u32,
    /// Noise level.
    pub sigma: f32,
    /// Noise level after it.
    pub sigma_next: f32,
    /// Place and chunk.
    pub unit: Unit,
    /// Guidance branch.
    pub branch: Branch,
    /// Steps that this lane has been through; differs from `index` where chunks start late.
    pub unit_step: u32,
}

impl Step {
    /// A step of the whole model, for policies that are used without [`StepReuse`](crate::StepReuse). Noise levels fall evenly from 1.
    pub fn new(index: u32, steps: u32) -> Self {
        let at = |i: u32| 1.0 - i as f32 / steps.max(1) as f32;
        let unit = Unit::new(crate::Place::Model);
        Self {
            index,
            steps,
            sigma: at(index),
            sigma_next: at(index + 1),
            unit,
            branch: Branch::Conditional,
            unit_step: index,
        }
    }
}
