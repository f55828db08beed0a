//! The trait of a policy, and what it may ask to be measured.

use std::fmt::Debug;

use smallvec::SmallVec;

use crate::{ReuseError, RunPlan, Step, Verdict};

/// A tensor that a signal is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// What the caller shows a policy at this step; the input of the place unless the caller has something better.
    Probe,
    /// The probe of the step before, computed or not.
    PreviousProbe,
    /// The probe of the last computed step.
    ReferenceProbe,
    /// This step's output. Only after a computed step.
    Output,
    /// The output of the last computed step before this one.
    ReferenceOutput,
    /// What this step leaves in the cache: a difference or an output. Only after a computed step.
    Value,
    /// What is in the cache.
    ReferenceValue,
}

/// A number that a policy wants to know. Means are over all elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// `mean |a|`.
    MeanAbs(Slot),
    /// `mean |a - b|`.
    MeanAbsDiff(Slot, Slot),
    /// `mean |a - b| / mean |b|`, `b` the older one. 0 when both are 0.
    RelL1(Slot, Slot),
    /// Mean over tokens of `|a|_2 / |b|_2`.
    TokenRatio(Slot, Slot),
    /// `|r[1..] - r[..n-1]|_1 / (|r[1..]|_1 + |r[..n-1]|_1)` over frames.
    FrameMotion(Slot),
}

/// The numbers that a policy wants, in order. Empty means that nothing is measured and no device is waited for.
pub type Request = SmallVec<[Measure; 4]>;

/// What must be kept for a policy besides what it reuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`Slot::PreviousProbe`].
    pub previous_probe: bool,
    /// [`Slot::ReferenceProbe`].
    pub reference_probe: bool,
    /// [`Slot::ReferenceOutput`].
    pub reference_output: bool,
    /// Orders of backward differences.
    pub orders: u8,
}

impl Needs {
    /// What both need.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            previous_probe: self.previous_probe || other.previous_probe,
            reference_probe: self.reference_probe || other.reference_probe,
            reference_output: self.reference_output || other.reference_output,
            orders: self.orders.max(other.orders),
        }
    }
}

/// Who shares the state of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every lane has its own.
    Lane,
    /// The branches of a unit share one.
    Unit,
    /// The whole run shares one.
    Run,
}

/// A policy: a scalar state machine that never sees a tensor.
///
/// For every step of a lane the caller measures [`request`](Self::request), asks [`decide`](Self::decide), and after a computed step
/// measures [`observe_request`](Self::observe_request) and tells [`observe`](Self::observe). When a step is computed for another reason
/// (nothing is cached, a shape changed, a guard) it calls [`forced`](Self::forced) in place of `decide`. Verdicts depend on the signals
/// alone, so ranks that reduce their signals first agree.
pub trait StepReusePolicy: Debug + Send {
    /// Its name in recipes.
    fn name(&self) -> &'static str;

    /// What must be kept for it.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Who shares its state.
    fn scope(&self) -> Scope {
        Scope::Lane
    }

    /// A run begins: state is forgotten, and noise levels come back when the policy wants others.
    ///
    /// # Errors
    /// Settings out of range, and a profile that is not this run's.
    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError>;

    /// What to measure before [`decide`](Self::decide).
    fn request(&self, step: &Step) -> Request {
        let _ = step;
        Request::new()
    }

    /// Decides. `signals` answers `request`. What is not a number never leads to a reuse.
    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict;

    /// The step is computed whatever this policy would have said.
    fn forced(&mut self, step: &Step) {
        let _ = step;
    }

    /// What to measure after a computed step.
    fn observe_request(&self, step: &Step) -> Request {
        let _ = step;
        Request::new()
    }

    /// A step was computed.
    fn observe(&mut self, step: &Step, signals: &[f64]) {
        let _ = (step, signals);
    }

    /// Forgets everything that a run left.
    fn reset(&mut self);

    /// A copy, state included.
    fn boxed(&self) -> Box<dyn StepReusePolicy>;
}

impl Clone for Box<dyn StepReusePolicy> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

impl StepReusePolicy for Box<dyn StepReusePolicy> {
    fn name(&self) -> &'static str {
        (**self).name()
    }
    fn needs(&self) -> Needs {
        (**self).needs()
    }
    fn scope(&self) -> Scope {
        (**self).scope()
    }
    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        (**self).begin(plan)
    }
    fn request(&self, step: &Step) -> Request {
        (**self).request(step)
    }
    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        (**self).decide(step, signals)
    }
    fn forced(&mut self, step: &Step) {
        (**self).forced(step);
    }
    fn observe_request(&self, step: &Step) -> Request {
        (**self).observe_request(step)
    }
    fn observe(&mut self, step: &Step, signals: &[f64]) {
        (**self).observe(step, signals);
    }
    fn reset(&mut self) {
        (**self).reset();
    }
    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        (**self).boxed()
    }
}
