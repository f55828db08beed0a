//! What keeps any policy within bounds.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Measure, Needs, Request, ReuseError, RunPlan, Scope, Slot, Step, StepReusePolicy, Verdict};

/// Bounds around a policy, tried in this order: warm-up and cool-down, steps in all, steps in a row, accumulated change, and then the policy.
///
/// A threshold alone is not safe: a latent that has collapsed looks unchanged and would be reused for ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Steps at the start that are computed.
    pub warmup: u32,
    /// Steps at the end that are computed.
    pub cooldown: u32,
    /// Most steps reused in a row.
    pub max_consecutive: Option<u32>,
    /// Most steps reused in a run.
    pub max_total: Option<u32>,
    /// Most relative change of the probe, added up over steps, between computed steps.
    pub budget: Option<f64>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { warmup: 1, cooldown: 1, max_consecutive: None, max_total: None, budget: None }
    }
}

impl Guard {
    /// Puts the bounds around `policy`.
    pub fn around(self, policy: impl StepReusePolicy + 'static) -> Guarded {
        Guarded { guard: self, policy: Box::new(policy), count: Count::default() }
    }

    fn outside(&self, step: &Step) -> bool {
        step.index < self.warmup || step.index >= step.steps.saturating_sub(self.cooldown)
    }
}

/// A policy within bounds; made by [`Guard::around`].
#[derive(Clone, Debug)]
pub struct Guarded {
    guard: Guard,
    policy: Box<dyn StepReusePolicy>,
    count: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    consecutive: u32,
    total: u32,
    change: f64,
    /// The step that was counted last. A policy of the whole run is asked once for every place, and a step counts once.
    step: Option<u32>,
}

impl Count {
    /// A step was computed.
    fn restart(&mut self) {
        (self.consecutive, self.change, self.step) = (0, 0.0, None);
    }
}

impl Guarded {
    /// Whether the step is computed without asking the policy.
    fn capped(&self, step: &Step) -> bool {
        if self.guard.outside(step) {
            return true;
        }
        self.count.step != Some(step.index)
            && (self.guard.max_total.is_some_and(|most| self.count.total >= most)
                || self.guard.max_consecutive.is_some_and(|most| self.count.consecutive >= most))
    }
}

impl StepReusePolicy for Guarded {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn needs(&self) -> Needs {
        let own = Needs { previous_probe: self.guard.budget.is_some(), ..Needs::default() };
        self.policy.needs().union(own)
    }

    fn scope(&self) -> Scope {
        self.policy.scope()
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        if let Some(budget) = self.guard.budget {
            require(budget >= 0.0, "guard", "budget", budget, "must not be negative")?;
        }
        self.count = Count::default();
        self.policy.begin(plan)
    }

    fn request(&self, step: &Step) -> Request {
        if self.capped(step) {
            return Request::new();
        }
        let mut request = self.policy.request(step);
        if self.guard.budget.is_some() {
            request.push(Measure::RelL1(Slot::Probe, Slot::PreviousProbe));
        }
        request
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        let mut signals = signals;
        let mut capped = self.capped(step);
        if let (false, Some(budget)) = (capped, self.guard.budget) {
            let change = signals.split_last().map_or(f64::NAN, |(last, rest)| {
                signals = rest;
                *last
            });
            if self.count.step != Some(step.index) {
                self.count.change += change;
            }
            // Also where the sum is not a number.
            let fits = self.count.change < budget;
            capped = !fits;
        }
        if capped {
            self.forced(step);
            return Verdict::Compute;
        }
        let verdict = self.policy.decide(step, signals);
        if verdict.is_compute() {
            self.count.restart();
        } else if self.count.step != Some(step.index) {
            self.count.consecutive += 1;
            self.count.total += 1;
            self.count.step = Some(step.index);
        }
        verdict
    }

    fn forced(&mut self, step: &Step) {
        self.count.restart();
        self.policy.forced(step);
    }

    fn observe_request(&self, step: &Step) -> Request {
        self.policy.observe_request(step)
    }

    fn observe(&mut self, step: &Step, signals: &[f64]) {
        self.policy.observe(step, signals);
    }

    fn reset(&mut self) {
        self.count = Count::default();
        self.policy.reset();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
