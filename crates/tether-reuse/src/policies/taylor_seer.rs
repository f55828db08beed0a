//! TaylorSeer.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Correction, Needs, ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// Highest order of differences that is kept.
pub(crate) const MAX_ORDER: u8 = 4;

/// TaylorSeer (arXiv:2503.06923). Outputs are not reused but foreseen, from their differences over the computed steps: the first few, then
/// every `interval`-th.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaylorSeer {
    /// Steps from one computed step to the next.
    pub interval: u32,
    /// Steps at the start that are computed.
    pub first: u32,
    /// Highest order of differences.
    pub order: u8,
    /// Newton's backward form, exact for polynomials of degree `order` over equally spaced computed steps; Taylor's is exact up to degree 1.
    pub newton: bool,
}

impl Default for TaylorSeer {
    fn default() -> Self {
        Self { interval: 6, first: 3, order: 1, newton: false }
    }
}

impl StepReusePolicy for TaylorSeer {
    fn name(&self) -> &'static str {
        "taylorseer"
    }

    fn needs(&self) -> Needs {
        Needs { orders: self.order, ..Needs::default() }
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        require(self.interval > 0, "taylorseer", "interval", f64::from(self.interval), "must be positive")?;
        require(self.order <= MAX_ORDER, "taylorseer", "order", f64::from(self.order), "must be at most 4")?;
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let first = self.first.max(1);
        if step.index < first || (step.index - first + 1).is_multiple_of(self.interval.max(1)) {
            return Verdict::Compute;
        }
        Verdict::Reuse(Correction::Taylor { order: self.order, newton: self.newton })
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
