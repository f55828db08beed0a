//! MagCache.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::profile::{Profile, ProfileData};
use crate::{ProfileError, ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// MagCache (arXiv:2506.09045). How much longer a step's residual is than the one before is nearly the same for every prompt, so it is
/// measured once. The product of these ratios since the last computed step, less 1, is the error of a reused step; errors add up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MagCache {
    /// Sum of errors at which a step is computed.
    pub threshold: f64,
    /// Most steps that are reused in a row.
    pub most: u32,
    /// Part of the steps at the start that is computed.
    pub retention: f64,
    #[serde(skip)]
    state: State,
    #[serde(skip)]
    profile: Option<Profile>,
    /// Ratios at this run's number of steps.
    #[serde(skip)]
    ratios: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    product: f64,
    error: f64,
    reused: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { product: 1.0, error: 0.0, reused: 0 }
    }
}

impl Default for MagCache {
    fn default() -> Self {
        Self::new(0.12, 2, 0.2)
    }
}

impl MagCache {
    /// A threshold, most steps in a row, and the part of the steps at the start that is computed. It needs a
    /// [profile](Self::with_profile).
    pub fn new(threshold: f64, most: u32, retention: f64) -> Self {
        let state = State::default();
        Self { threshold, most, retention, state, profile: None, ratios: Vec::new() }
    }

    /// Takes the ratios from a profile.
    ///
    /// # Errors
    /// [`ProfileError::Kind`].
    pub fn with_profile(mut self, profile: Profile) -> Result<Self, ProfileError> {
        profile.validate()?;
        let ProfileData::Mag { ratios } = &profile.data else {
            return Err(ProfileError::Kind { expected: "magcache", got: profile.data.kind() });
        };
        self.ratios.clone_from(ratios);
        self.profile = Some(profile);
        Ok(self)
    }
}

impl StepReusePolicy for MagCache {
    fn name(&self) -> &'static str {
        "magcache"
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        require(self.threshold >= 0.0, "magcache", "threshold", self.threshold, "must not be negative")?;
        let retention = self.retention;
        require((0.0..=1.0).contains(&retention), "magcache", "retention", retention, "must lie in 0..=1")?;
        let Some(profile) = &self.profile else {
            return Err(ProfileError::Needed { policy: "magcache" }.into());
        };
        profile.header.check(plan)?;
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        if step.index < (f64::from(step.steps) * self.retention) as u32 {
            return Verdict::Compute;
        }
        let ratio = self.ratios.get(step.index as usize).copied().unwrap_or(f64::NAN);
        let s = &mut self.state;
        s.product *= ratio;
        s.error += (1.0 - s.product).abs();
        s.reused += 1;
        if s.error < self.threshold && s.reused <= self.most {
            return Verdict::HOLD;
        }
        self.reset();
        Verdict::Compute
    }

    fn forced(&mut self, _: &Step) {
        self.reset();
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
