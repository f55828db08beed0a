//! A policy for each lane.

use std::collections::BTreeMap;

use crate::lane::{Branch, Lane, Unit};
use crate::{Needs, Request, ReuseError, RunPlan, Scope, Step, StepReusePolicy, Verdict};

/// Copies of a policy: one per lane, per unit or for the run, as its [`Scope`] says. [`StepReuse`](crate::StepReuse) makes one by itself; an
/// engine with tensors of its own uses it directly when it has several units or branches.
#[derive(Clone, Debug)]
pub struct Lanes {
    prototype: Box<dyn StepReusePolicy>,
    lanes: BTreeMap<Option<Lane>, Box<dyn StepReusePolicy>>,
}

impl Lanes {
    /// Copies of `policy`.
    pub fn new(policy: impl StepReusePolicy + 'static) -> Self {
        Self { prototype: Box::new(policy), lanes: BTreeMap::new() }
    }

    /// Forgets a unit, such as a chunk that has left the window.
    pub fn retire(&mut self, unit: Unit) {
        self.lanes.retain(|lane, _| lane.is_none_or(|lane| lane.unit != unit));
    }

    fn key(&self, step: &Step) -> Option<Lane> {
        match self.prototype.scope() {
            Scope::Lane => Some(Lane { unit: step.unit, branch: step.branch }),
            Scope::Unit => Some(Lane { unit: step.unit, branch: Branch::Conditional }),
            Scope::Run => None,
        }
    }

    fn existing(&self, step: &Step) -> &dyn StepReusePolicy {
        self.lanes.get(&self.key(step)).unwrap_or(&self.prototype).as_ref()
    }

    fn lane(&mut self, step: &Step) -> &mut dyn StepReusePolicy {
        let key = self.key(step);
        // The prototype has begun the run and seen no step, so its copy has as well.
        self.lanes.entry(key).or_insert_with(|| self.prototype.clone()).as_mut()
    }
}

impl StepReusePolicy for Lanes {
    fn name(&self) -> &'static str {
        self.prototype.name()
    }

    fn needs(&self) -> Needs {
        self.prototype.needs()
    }

    fn scope(&self) -> Scope {
        Scope::Run
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.lanes.clear();
        self.prototype.begin(plan)
    }

    fn request(&self, step: &Step) -> Request {
        self.existing(step).request(step)
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        self.lane(step).decide(step, signals)
    }

    fn forced(&mut self, step: &Step) {
        self.lane(step).forced(step);
    }

    fn observe_request(&self, step: &Step) -> Request {
        self.existing(step).observe_request(step)
    }

    fn observe(&mut self, step: &Step, signals: &[f64]) {
        self.lane(step).observe(step, signals);
    }

    fn reset(&mut self) {
        self.lanes.clear();
        self.prototype.reset();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
