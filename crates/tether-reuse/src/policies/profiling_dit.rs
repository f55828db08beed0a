//! ProfilingDiT.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::profile::{Profile, ProfileData, ProfileHeader};
use crate::{ProfileError, ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// When the cached blocks run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Every so many steps.
    Every(u32),
    /// At these steps.
    At(Vec<u32>),
    /// At intervals that fall linearly from `longest` to `shortest` over the rest of the run, rounded.
    Falling {
        /// Interval at the first cached step.
        longest: f64,
        /// Interval at the end.
        shortest: f64,
    },
}

/// ProfilingDiT (arXiv:2504.03140). Blocks that attend to the background change slowly. Profiling finds them, and what runs of neighbouring
/// ones add to the hidden state is reused between refreshes; the other blocks always run.
///
/// The [`Place::Span`](crate::Place::Span)s are those of [`block_runs`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfilingDit {
    /// First step at which something is stored, and the first refresh.
    pub start: u32,
    /// The refreshes after it.
    pub refresh: Refresh,
    /// What its blocks were measured on.
    #[serde(skip)]
    measured_on: Option<ProfileHeader>,
    #[serde(skip)]
    due: Vec<bool>,
}

impl Default for ProfilingDit {
    fn default() -> Self {
        Self::new(6, Refresh::Every(6))
    }
}

impl ProfilingDit {
    /// A schedule.
    pub fn new(start: u32, refresh: Refresh) -> Self {
        Self { start, refresh, measured_on: None, due: Vec::new() }
    }

    /// For runs like those that `profile` was measured on, and no others. Which blocks are cached is the site's affair.
    ///
    /// # Errors
    /// [`ProfileError::Kind`], and those of [`Profile::validate`].
    pub fn with_profile(self, profile: &Profile) -> Result<Self, ProfileError> {
        profile.validate()?;
        match profile.data {
            ProfileData::Blocks { .. } => Ok(Self { measured_on: Some(profile.header.clone()), ..self }),
            _ => Err(ProfileError::Kind { expected: "profiling-dit", got: profile.data.kind() }),
        }
    }

    /// Steps of a run of `steps` at which cached blocks are stored anew.
    pub fn refreshes(&self, steps: u32) -> Vec<u32> {
        match &self.refresh {
            Refresh::Every(n) => (self.start..steps).step_by((*n).max(1) as usize).collect(),
            Refresh::At(list) => list.iter().copied().filter(|s| *s < steps).collect(),
            Refresh::Falling { longest, shortest } => {
                let span = f64::from(steps.saturating_sub(self.start).max(1));
                let mut all = Vec::new();
                let mut next = self.start;
                while next < steps {
                    all.push(next);
                    let part = f64::from(next - self.start) / span;
                    let interval = longest - (longest - shortest) * part;
                    next = next.saturating_add(interval.round().max(1.0) as u32);
                }
                all
            }
        }
    }
}

impl StepReusePolicy for ProfilingDit {
    fn name(&self) -> &'static str {
        "profiling-dit"
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        if let Some(header) = &self.measured_on {
            header.check(plan)?;
        }
        match &self.refresh {
            Refresh::Every(n) => {
                require(*n > 0, "profiling-dit", "refresh interval", f64::from(*n), "must be positive")?;
            }
            Refresh::At(list) => {
                if let Some(w) = list.windows(2).find(|w| w[1] <= w[0]) {
                    require(false, "profiling-dit", "refresh step", f64::from(w[1]), "must rise")?;
                }
            }
            Refresh::Falling { longest, shortest } => {
                for value in [longest, shortest] {
                    let fits = value.is_finite() && *value >= 1.0;
                    require(fits, "profiling-dit", "refresh interval", *value, "must be at least 1")?;
                }
            }
        }
        self.due = vec![false; plan.steps() as usize];
        for step in self.refreshes(plan.steps()) {
            self.due[step as usize] = true;
        }
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let due = self.due.get(step.index as usize).is_none_or(|due| *due);
        if step.index < self.start || due { Verdict::Compute } else { Verdict::HOLD }
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}

/// Maximal runs of neighbouring blocks, in order. `blocks` need not be sorted.
pub fn block_runs(blocks: &[u16]) -> Vec<Range<usize>> {
    let mut sorted: Vec<usize> = blocks.iter().map(|b| usize::from(*b)).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for block in sorted {
        match runs.last_mut() {
            Some(run) if run.end == block => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}
