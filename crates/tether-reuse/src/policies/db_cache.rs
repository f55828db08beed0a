//! DBCache.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Measure, Needs, Request, ReuseError, RunPlan, Slot, Step, StepReusePolicy, Verdict};

/// DBCache (cache-dit). The first blocks always run; when what they add differs from what they added at the last computed step by less than
/// the threshold, the middle blocks are reused. Nothing adds up, so put it under a [`Guard`](crate::Guard) with caps.
///
/// The probe is what the first blocks added: hidden state after them less the one before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DbCache {
    /// Relative change at which a step is computed. 0 never reuses.
    pub threshold: f64,
}

impl Default for DbCache {
    fn default() -> Self {
        Self { threshold: 0.08 }
    }
}

impl StepReusePolicy for DbCache {
    fn name(&self) -> &'static str {
        "dbcache"
    }

    fn needs(&self) -> Needs {
        Needs { reference_probe: true, ..Needs::default() }
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        require(self.threshold >= 0.0, "dbcache", "threshold", self.threshold, "must not be negative")?;
        Ok(None)
    }

    fn request(&self, _: &Step) -> Request {
        [Measure::RelL1(Slot::Probe, Slot::ReferenceProbe)].as_slice().into()
    }

    fn decide(&mut self, _: &Step, signals: &[f64]) -> Verdict {
        let near = signals.first().is_some_and(|d| *d < self.threshold);
        if near { Verdict::HOLD } else { Verdict::Compute }
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
