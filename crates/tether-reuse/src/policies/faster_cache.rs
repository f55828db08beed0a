//! FasterCache's feature reuse.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Correction, Needs, ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// The feature reuse of FasterCache (arXiv:2410.19355): attention outputs are extrapolated from the last two computed ones, every
/// `interval`-th step is computed. Its cache of the unconditional branch in the frequency domain is not part of this.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FasterCache {
    /// First step that may be reused.
    pub start: u32,
    /// Steps from one computed step to the next.
    pub interval: u32,
    /// Weight of the last change.
    pub weight: f32,
}

impl Default for FasterCache {
    fn default() -> Self {
        Self { start: 18, interval: 3, weight: 0.3 }
    }
}

impl StepReusePolicy for FasterCache {
    fn name(&self) -> &'static str {
        "fastercache"
    }

    fn needs(&self) -> Needs {
        Needs { orders: 1, ..Needs::default() }
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        require(self.interval > 0, "fastercache", "interval", f64::from(self.interval), "must be positive")?;
        require(self.weight.is_finite(), "fastercache", "weight", f64::from(self.weight), "must be finite")?;
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        if step.index < self.start.max(1) || step.index.is_multiple_of(self.interval.max(1)) {
            return Verdict::Compute;
        }
        Verdict::Reuse(Correction::Linear { weight: self.weight })
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
