//! EasyCache.

use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use crate::error::require;
use crate::{Measure, Needs, Request, ReuseError, RunPlan, Slot, Step, StepReusePolicy, Verdict};

/// EasyCache (arXiv:2507.02860). The output's change is predicted from the input's: between the last two computed steps the output changed
/// `k` times as much as the input, so a step changes it by `k mean|x - x_prev| / mean|y|`. These add up; a step is reused while the sum is
/// below the threshold.
///
/// The published code computes the first 5 or 10 steps and the last one: put it under a [`Guard`](crate::Guard). The probe must be the
/// input of the place.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EasyCache {
    /// Sum of relative changes at which a step is computed. 0 never reuses.
    pub threshold: f64,
    #[serde(skip)]
    state: State,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Change of the output per change of the input.
    k: Option<f64>,
    /// Mean absolute output of the last computed step.
    magnitude: f64,
    error: Accumulator,
    computed: u32,
}

impl Default for EasyCache {
    fn default() -> Self {
        Self::new(0.05)
    }
}

impl EasyCache {
    /// EasyCache with a threshold.
    pub fn new(threshold: f64) -> Self {
        Self { threshold, state: State::default() }
    }
}

impl StepReusePolicy for EasyCache {
    fn name(&self) -> &'static str {
        "easycache"
    }

    fn needs(&self) -> Needs {
        Needs { previous_probe: true, reference_probe: true, reference_output: true, orders: 0 }
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        require(self.threshold >= 0.0, "easycache", "threshold", self.threshold, "must not be negative")?;
        Ok(None)
    }

    fn request(&self, _: &Step) -> Request {
        if self.state.k.is_none() {
            return Request::new();
        }
        [Measure::MeanAbsDiff(Slot::Probe, Slot::PreviousProbe)].as_slice().into()
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        let (Some(k), [change]) = (self.state.k, signals) else {
            self.forced(step);
            return Verdict::Compute;
        };
        let change = k * change / self.state.magnitude.max(1e-12);
        self.state.error.decide(change, self.threshold)
    }

    fn forced(&mut self, _: &Step) {
        self.state.error.clear();
    }

    fn observe_request(&self, _: &Step) -> Request {
        let mut request: Request = [Measure::MeanAbs(Slot::Output)].as_slice().into();
        if self.state.computed > 0 {
            request.push(Measure::MeanAbsDiff(Slot::Output, Slot::ReferenceOutput));
            request.push(Measure::MeanAbsDiff(Slot::Probe, Slot::ReferenceProbe));
        }
        request
    }

    fn observe(&mut self, _: &Step, signals: &[f64]) {
        self.state.computed = self.state.computed.saturating_add(1);
        self.state.magnitude = signals.first().copied().unwrap_or(f64::NAN);
        if let [_, output, input] = signals {
            let k = output / input.max(1e-12);
            self.state.k = (k.is_finite() && self.state.magnitude.is_finite()).then_some(k);
        } else {
            self.state.k = None;
        }
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
