//! Guidance branches that decide together.

use crate::lane::Branch;
use crate::{Needs, Request, ReuseError, RunPlan, Scope, Step, StepReusePolicy, Verdict};

/// The conditional branch decides and the unconditional one obeys, without a signal of its own. The conditional call of a step comes first;
/// where there is none, the step is computed.
#[derive(Clone, Debug)]
pub struct CfgLead {
    policy: Box<dyn StepReusePolicy>,
    led: Option<(u32, Verdict)>,
}

impl CfgLead {
    /// `policy` as the conditional branch's, which leads.
    pub fn new(policy: impl StepReusePolicy + 'static) -> Self {
        Self { policy: Box::new(policy), led: None }
    }
}

impl StepReusePolicy for CfgLead {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn needs(&self) -> Needs {
        self.policy.needs()
    }

    fn scope(&self) -> Scope {
        match self.policy.scope() {
            Scope::Run => Scope::Run,
            Scope::Lane | Scope::Unit => Scope::Unit,
        }
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.led = None;
        self.policy.begin(plan)
    }

    fn request(&self, step: &Step) -> Request {
        match step.branch {
            Branch::Conditional => self.policy.request(step),
            Branch::Unconditional => Request::new(),
        }
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        match step.branch {
            Branch::Conditional => {
                let verdict = self.policy.decide(step, signals);
                self.led = Some((step.index, verdict.clone()));
                verdict
            }
            Branch::Unconditional => match &self.led {
                Some((index, verdict)) if *index == step.index => verdict.clone(),
                _ => Verdict::Compute,
            },
        }
    }

    fn forced(&mut self, step: &Step) {
        if step.branch == Branch::Conditional {
            self.led = Some((step.index, Verdict::Compute));
            self.policy.forced(step);
        }
    }

    fn observe_request(&self, step: &Step) -> Request {
        match step.branch {
            Branch::Conditional => self.policy.observe_request(step),
            Branch::Unconditional => Request::new(),
        }
    }

    fn observe(&mut self, step: &Step, signals: &[f64]) {
        if step.branch == Branch::Conditional {
            self.policy.observe(step, signals);
        }
    }

    fn reset(&mut self) {
        self.led = None;
        self.policy.reset();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
