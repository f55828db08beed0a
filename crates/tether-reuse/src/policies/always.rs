//! No reuse: the baseline.

use crate::{ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// Computes every step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Always;

impl StepReusePolicy for Always {
    fn name(&self) -> &'static str {
        "none"
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        Ok(None)
    }

    fn decide(&mut self, _: &Step, _: &[f64]) -> Verdict {
        Verdict::Compute
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(*self)
    }
}
