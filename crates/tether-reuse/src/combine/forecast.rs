//! Any policy with TaylorSeer's extrapolation.

use crate::error::require;
use crate::policies::MAX_ORDER;
use crate::{Correction, Needs, Request, ReuseError, RunPlan, Scope, Step, StepReusePolicy, Verdict};

/// Steps that a policy would reuse as they are, are extrapolated from the last computed ones. Other corrections are left alone.
#[derive(Clone, Debug)]
pub struct Forecast {
    policy: Box<dyn StepReusePolicy>,
    order: u8,
    newton: bool,
}

impl Forecast {
    /// `policy`, extrapolating with differences up to `order`, in Newton's form or Taylor's.
    pub fn new(policy: impl StepReusePolicy + 'static, order: u8, newton: bool) -> Self {
        Self { policy: Box::new(policy), order, newton }
    }
}

impl StepReusePolicy for Forecast {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn needs(&self) -> Needs {
        self.policy.needs().union(Needs { orders: self.order, ..Needs::default() })
    }

    fn scope(&self) -> Scope {
        self.policy.scope()
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        require(self.order <= MAX_ORDER, "forecast", "order", f64::from(self.order), "must be at most 4")?;
        self.policy.begin(plan)
    }

    fn request(&self, step: &Step) -> Request {
        self.policy.request(step)
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        match self.policy.decide(step, signals) {
            Verdict::Reuse(Correction::Hold) => {
                Verdict::Reuse(Correction::Taylor { order: self.order, newton: self.newton })
            }
            other => other,
        }
    }

    fn forced(&mut self, step: &Step) {
        self.policy.forced(step);
    }

    fn observe_request(&self, step: &Step) -> Request {
        self.policy.observe_request(step)
    }

    fn observe(&mut self, step: &Step, signals: &[f64]) {
        self.policy.observe(step, signals);
    }

    fn reset(&mut self) {
        self.policy.reset();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
