//! TeaCache.

use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use crate::error::require;
use crate::profile::{Profile, ProfileData};
use crate::{
    Measure, Needs, ProfileError, Request, ReuseError, RunPlan, Slot, Step, StepReusePolicy, Verdict,
};

/// TeaCache (arXiv:2411.19108). The relative change of the probe, mapped by a polynomial to the change of the output that it foretells, adds
/// up; a step is reused while the sum is below the threshold.
///
/// The probe is what the time has already entered: the modulated input of the first block, or the time embedding. The polynomial belongs to
/// a model: it is published with it or measured (`tether reuse profile`). As published it may be negative.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeaCache {
    /// Sum of changes at which a step is computed.
    pub threshold: f64,
    /// Coefficients of the polynomial, highest power first.
    pub polynomial: Vec<f64>,
    #[serde(skip)]
    error: Accumulator,
    #[serde(skip)]
    profile: Option<Profile>,
}

impl Default for TeaCache {
    fn default() -> Self {
        Self::new(0.1, vec![1.0, 0.0])
    }
}

impl TeaCache {
    /// TeaCache with a threshold and a polynomial, highest power first; `[1, 0]` is the change itself.
    pub fn new(threshold: f64, polynomial: Vec<f64>) -> Self {
        Self { threshold, polynomial, error: Accumulator::default(), profile: None }
    }

    /// Takes the polynomial from a profile.
    ///
    /// # Errors
    /// [`ProfileError::Kind`].
    pub fn with_profile(mut self, profile: Profile) -> Result<Self, ProfileError> {
        profile.validate()?;
        let ProfileData::Tea { polynomial } = &profile.data else {
            return Err(ProfileError::Kind { expected: "teacache", got: profile.data.kind() });
        };
        self.polynomial.clone_from(polynomial);
        self.profile = Some(profile);
        Ok(self)
    }

    /// The polynomial at `x`.
    pub fn predicted(&self, x: f64) -> f64 {
        self.polynomial.iter().fold(0.0, |y, c| y * x + c)
    }
}

impl StepReusePolicy for TeaCache {
    fn name(&self) -> &'static str {
        "teacache"
    }

    fn needs(&self) -> Needs {
        Needs { previous_probe: true, ..Needs::default() }
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        require(self.threshold >= 0.0, "teacache", "threshold", self.threshold, "must not be negative")?;
        if let Some(bad) = self.polynomial.iter().find(|c| !c.is_finite()) {
            require(false, "teacache", "polynomial", *bad, "must be finite")?;
        }
        if let Some(profile) = &self.profile {
            profile.header.check(plan)?;
        }
        Ok(None)
    }

    fn request(&self, _: &Step) -> Request {
        [Measure::RelL1(Slot::Probe, Slot::PreviousProbe)].as_slice().into()
    }

    fn decide(&mut self, _: &Step, signals: &[f64]) -> Verdict {
        // Nothing below nothing: a threshold of 0 reuses nothing even where the polynomial is negative.
        if self.threshold <= 0.0 {
            return Verdict::Compute;
        }
        let change = signals.first().map_or(f64::NAN, |x| self.predicted(*x));
        self.error.decide(change, self.threshold)
    }

    fn forced(&mut self, _: &Step) {
        self.error.clear();
    }

    fn reset(&mut self) {
        self.error.clear();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
