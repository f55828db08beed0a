//! FORA.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// FORA (arXiv:2407.01425). Attention and feed-forward outputs, before their gates, are computed every `interval` steps, counted from the
/// last step backwards, and in the first step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fora {
    /// Steps from one computed step to the next. 1 computes all.
    pub interval: u32,
}

impl Default for Fora {
    fn default() -> Self {
        Self { interval: 3 }
    }
}

impl StepReusePolicy for Fora {
    fn name(&self) -> &'static str {
        "fora"
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        require(self.interval > 0, "fora", "interval", f64::from(self.interval), "must be positive")?;
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let left = step.steps.saturating_sub(1 + step.index);
        let due = step.index == 0 || self.interval == 0 || left.is_multiple_of(self.interval);
        if due { Verdict::Compute } else { Verdict::HOLD }
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
