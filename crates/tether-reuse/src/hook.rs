//! What a model author adds: a policy, what it keeps, and the engine that measures and corrects.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::combine::Lanes;
use crate::engine::{Base, Reduction, ReuseEngine, Shape};
use crate::lane::{Lane, Unit};
use crate::{
    Correction, Measure, Needs, Request, ReuseError, ReuseStats, RunPlan, Slot, Step, StepReusePolicy,
    Verdict,
};

/// Step reuse at any number of places of one model, with the tensors on engine `E`.
///
/// ```text
/// match reuse.decide(lane, step, &x)? {
///     Verdict::Compute => { model.run(&x, &mut y); reuse.computed(lane, &x, &y)?; }
///     Verdict::Reuse(_) => reuse.reused(lane, &x, &mut y)?,
/// }
/// ```
///
/// Steps of a lane come in order and each decision is answered once. What does not fit together is an error or a computation, never a
/// reuse of something else's result.
#[derive(Debug)]
pub struct StepReuse<E: ReuseEngine> {
    engine: E,
    policy: Lanes,
    needs: Needs,
    plan: Option<RunPlan>,
    lanes: BTreeMap<Lane, Kept<E::Owned>>,
    stats: ReuseStats,
}

/// What a lane keeps.
#[derive(Debug)]
struct Kept<T> {
    previous_probe: Option<T>,
    reference_probe: Option<T>,
    reference_output: Option<T>,
    /// The cached value and its backward differences.
    ladder: Vec<T>,
    /// Entries of the ladder that hold something.
    known: usize,
    /// Where the value of a computed step is made.
    fresh: Option<T>,
    /// Number of the last computed step, and the steps between it and the one before.
    computed_at: u32,
    gap: u32,
    last: Option<u32>,
    decisions: u32,
    pending: Option<(Step, Verdict)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            previous_probe: None,
            reference_probe: None,
            reference_output: None,
            ladder: Vec::new(),
            known: 0,
            fresh: None,
            computed_at: 0,
            gap: 1,
            last: None,
            decisions: 0,
            pending: None,
        }
    }
}

impl<T> Kept<T> {
    /// Drops the tensors: they have another shape. Counts go on.
    fn drop_tensors(&mut self) {
        *self = Self {
            last: self.last,
            decisions: self.decisions,
            pending: self.pending.take(),
            ..Self::default()
        };
    }

    fn tensors(&self) -> impl Iterator<Item = &T> {
        let one = [&self.previous_probe, &self.reference_probe, &self.reference_output, &self.fresh];
        one.into_iter().flatten().chain(&self.ladder)
    }
}

impl<E: ReuseEngine> StepReuse<E> {
    /// Reuse under `policy`. [`begin`](Self::begin) comes next.
    pub fn new(engine: E, policy: impl StepReusePolicy + 'static) -> Self {
        let policy = Lanes::new(policy);
        let needs = policy.needs();
        Self { engine, policy, needs, plan: None, lanes: BTreeMap::new(), stats: ReuseStats::default() }
    }

    /// A run begins: everything that another one left is forgotten but the statistics. Returns the noise levels at which the model must be
    /// called, which are the plan's unless the policy rewrites them.
    ///
    /// # Errors
    /// A plan that is none, settings out of range, and a profile that was made for another model, schedule or resolution.
    pub fn begin(&mut self, plan: &RunPlan) -> Result<Vec<f32>, ReuseError> {
        self.reset();
        plan.validate()?;
        let mut plan = plan.clone();
        if let Some(sigmas) = self.policy.begin(&plan)? {
            plan.sigmas = sigmas;
            plan.validate()?;
        }
        let sigmas = plan.sigmas.clone();
        self.plan = Some(plan);
        Ok(sigmas)
    }

    /// Forgets the run: tensors and states. Call it when the prompt, the guidance or the expert changes within one.
    pub fn reset(&mut self) {
        self.lanes.clear();
        self.policy.reset();
        self.plan = None;
    }

    /// Forgets a unit, such as a chunk that has left the window.
    pub fn retire(&mut self, unit: Unit) {
        self.lanes.retain(|lane, _| lane.unit != unit);
        self.policy.retire(unit);
    }

    /// The policy's name.
    pub fn policy(&self) -> &'static str {
        self.policy.name()
    }

    /// What happened since this was made.
    pub fn stats(&self) -> &ReuseStats {
        &self.stats
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.lanes.values().flat_map(Kept::tensors).map(|t| self.engine.bytes(t)).sum()
    }

    /// Decides a step of a lane. `probe` is what the policy looks at: the input of the place, unless the policy's documentation names
    /// something better.
    ///
    /// # Errors
    /// [`ReuseError::NotBegun`], [`ReuseError::StepOutOfRange`], [`ReuseError::StepOrder`], and what the engine reports.
    pub fn decide(
        &mut self,
        lane: impl Into<Lane>,
        step: u32,
        probe: &E::Tensor,
    ) -> Result<Verdict, E::Error> {
        let lane = lane.into();
        let Self { engine, policy, needs, plan, lanes, stats } = self;
        let plan = plan.as_ref().ok_or(ReuseError::NotBegun)?;
        if step >= plan.steps() {
            return Err(ReuseError::StepOutOfRange { step, steps: plan.steps() }.into());
        }
        let kept = lanes.entry(lane).or_default();
        if let Some(last) = kept.last.filter(|last| step <= *last) {
            return Err(ReuseError::StepOrder { lane, step, last }.into());
        }
        if matches!(kept.pending.take(), Some((_, Verdict::Compute))) {
            // Its result never came, so what is kept is older than the policy believes.
            kept.drop_tensors();
        }
        let shape = engine.shape(probe);
        let probes = [&kept.previous_probe, &kept.reference_probe];
        if probes.into_iter().flatten().any(|old| engine.shape(old.borrow()) != shape) {
            kept.drop_tensors();
        }
        let at = plan.step(step, lane.unit, lane.branch, kept.decisions);
        let slots = Slots { kept, probe: Some(probe), output: None, value: None };
        let verdict = if kept.known == 0 {
            None
        } else {
            let signals = measure(engine, plan, stats, &policy.request(&at), &slots)?;
            signals.map(|signals| {
                let finite = signals.iter().all(|x| x.is_finite());
                stats.not_numbers += u64::from(!finite);
                let verdict = policy.decide(&at, &signals);
                if finite { verdict } else { compute_instead(policy, &at, verdict) }
            })
        };
        let verdict = verdict.unwrap_or_else(|| {
            stats.forced += 1;
            policy.forced(&at);
            Verdict::Compute
        });
        // After the measurement, which looks at the old one. A computed step takes its reference from here.
        if needs.previous_probe || needs.reference_probe {
            store(engine, probe, &mut kept.previous_probe)?;
        }
        (kept.last, kept.decisions) = (Some(step), kept.decisions + 1);
        kept.pending = Some((at, verdict.clone()));
        if verdict.is_compute() {
            stats.computed += 1;
        } else {
            stats.reused += 1;
        }
        Ok(verdict)
    }

    /// Takes what a computed step made of `input`. For a module `input` is not looked at.
    ///
    /// # Errors
    /// [`ReuseError::Undecided`] when the last decision was not to compute, [`ReuseError::Shape`] when input and output differ, and what the
    /// engine reports.
    pub fn computed(
        &mut self,
        lane: impl Into<Lane>,
        input: &E::Tensor,
        output: &E::Tensor,
    ) -> Result<(), E::Error> {
        let lane = lane.into();
        let Self { engine, policy, needs, plan, lanes, stats } = self;
        let plan = plan.as_ref().ok_or(ReuseError::NotBegun)?;
        let undecided = ReuseError::Undecided { lane, what: "a result was stored" };
        let Some(kept) = lanes.get_mut(&lane) else { return Err(undecided.into()) };
        // It stays pending until it is stored whole: after an error the next decision drops what is kept.
        let at = match &kept.pending {
            Some((at, Verdict::Compute)) => *at,
            _ => return Err(undecided.into()),
        };
        let shape = engine.shape(output);
        let differs = lane.unit.place.keeps_difference();
        if differs && engine.shape(input) != shape {
            let (expected, got) = (shape, engine.shape(input));
            return Err(ReuseError::Shape { what: "a place's input", expected, got }.into());
        }
        if kept.ladder.iter().chain(&kept.reference_output).any(|old| engine.shape(old.borrow()) != shape) {
            // The probes stay: they are another tensor's, and were looked at when the step was decided.
            (kept.known, kept.fresh, kept.reference_output) = (0, None, None);
            kept.ladder.clear();
        }
        let mut fresh = match kept.fresh.take() {
            Some(fresh) => fresh,
            None => engine.copy(output)?,
        };
        if differs {
            engine.difference(output, input, &mut fresh)?;
        } else {
            engine.copy_into(output, &mut fresh)?;
        }
        // The probe of this step is the previous one by now.
        let request = policy.observe_request(&at);
        let probe = kept.previous_probe.as_ref().map(Borrow::borrow);
        let slots = Slots { kept, probe, output: Some(output), value: Some(fresh.borrow()) };
        let signals = measure(engine, plan, stats, &request, &slots)?;
        // What cannot be measured yet is told as nothing: a policy expects that of its first step.
        policy.observe(&at, &signals.unwrap_or_default());

        let rungs = usize::from(needs.orders) + 1;
        let gap = at.index.saturating_sub(kept.computed_at).max(1);
        while kept.ladder.len() < rungs {
            kept.ladder.push(engine.copy(fresh.borrow())?);
        }
        engine.climb(fresh.borrow(), &mut kept.ladder, kept.known, gap as f32)?;
        kept.known = (kept.known + 1).min(rungs);
        (kept.computed_at, kept.gap) = (at.index, gap);
        kept.fresh = Some(fresh);
        if needs.reference_probe
            && let Some(probe) = &kept.previous_probe
        {
            store(engine, probe.borrow(), &mut kept.reference_probe)?;
        }
        if needs.reference_output {
            store(engine, output, &mut kept.reference_output)?;
        }
        kept.pending = None;
        let bytes = lanes.values().flat_map(Kept::tensors).map(|t| engine.bytes(t)).sum();
        stats.peak_bytes = stats.peak_bytes.max(bytes);
        Ok(())
    }

    /// Makes the output of a step that is not computed, from this step's `input` and what is cached. For a module `input` is not looked at.
    ///
    /// # Errors
    /// [`ReuseError::Undecided`] when the last decision was not a reuse, [`ReuseError::Shape`] when the cached value has another shape, and
    /// what the engine reports.
    pub fn reused(
        &mut self,
        lane: impl Into<Lane>,
        input: &E::Tensor,
        output: &mut E::Tensor,
    ) -> Result<(), E::Error> {
        let lane = lane.into();
        let base = if lane.unit.place.keeps_difference() { Base::Tensor(input) } else { Base::Nothing };
        self.answer(lane, base, output)
    }

    /// [`reused`](Self::reused) for a place whose output takes its input's place, such as a residual stream.
    ///
    /// # Errors
    /// As [`reused`](Self::reused).
    pub fn reused_in_place(&mut self, lane: impl Into<Lane>, stream: &mut E::Tensor) -> Result<(), E::Error> {
        let lane = lane.into();
        let base = if lane.unit.place.keeps_difference() { Base::InPlace } else { Base::Nothing };
        self.answer(lane, base, stream)
    }

    fn answer(
        &mut self,
        lane: Lane,
        base: Base<'_, E::Tensor>,
        output: &mut E::Tensor,
    ) -> Result<(), E::Error> {
        let Self { engine, lanes, .. } = self;
        let undecided = ReuseError::Undecided { lane, what: "a reuse" };
        let Some(kept) = lanes.get_mut(&lane) else { return Err(undecided.into()) };
        let (at, correction) = match kept.pending.take() {
            Some((at, Verdict::Reuse(correction))) => (at, correction),
            other => {
                kept.pending = other;
                return Err(undecided.into());
            }
        };
        let Some(value) = kept.ladder.first().filter(|_| kept.known > 0) else {
            return Err(undecided.into());
        };
        let expected = engine.shape(value.borrow());
        let got: SmallVec<[(&str, Shape); 2]> = match &base {
            Base::Tensor(input) => {
                [("the input", engine.shape(input)), ("the output", engine.shape(output))].into()
            }
            _ => std::iter::once(("the output", engine.shape(output))).collect(),
        };
        if let Some((what, got)) = got.into_iter().find(|(_, shape)| *shape != expected) {
            return Err(ReuseError::Shape { what, expected, got }.into());
        }
        let elapsed = at.index.saturating_sub(kept.computed_at) as f32;
        let weights = correction.weights(elapsed, kept.gap as f32, kept.known);
        let terms: SmallVec<[(f32, &E::Tensor); 5]> =
            weights.iter().copied().zip(kept.ladder.iter().map(Borrow::borrow)).collect();
        let affine = match &correction {
            Correction::Affine { a, b } => Some((&a[..], &b[..])),
            _ => None,
        };
        engine.combine(base, &terms, affine, output)
    }
}

/// A verdict that was given on what is not a number.
fn compute_instead(policy: &mut Lanes, at: &Step, verdict: Verdict) -> Verdict {
    if !verdict.is_compute() {
        policy.forced(at);
    }
    Verdict::Compute
}

/// Copies `tensor` over what was kept, when that has the same shape.
fn store<E: ReuseEngine>(
    engine: &E,
    tensor: &E::Tensor,
    kept: &mut Option<E::Owned>,
) -> Result<(), E::Error> {
    match kept {
        Some(old) if engine.shape((*old).borrow()) == engine.shape(tensor) => engine.copy_into(tensor, old),
        _ => {
            *kept = Some(engine.copy(tensor)?);
            Ok(())
        }
    }
}

/// The tensors of a step by name.
struct Slots<'a, E: ReuseEngine> {
    kept: &'a Kept<E::Owned>,
    probe: Option<&'a E::Tensor>,
    output: Option<&'a E::Tensor>,
    value: Option<&'a E::Tensor>,
}

impl<'a, E: ReuseEngine> Slots<'a, E> {
    fn get(&self, slot: Slot) -> Option<&'a E::Tensor> {
        let owned = |tensor: &'a Option<E::Owned>| tensor.as_ref().map(Borrow::borrow);
        match slot {
            Slot::Probe => self.probe,
            Slot::PreviousProbe => owned(&self.kept.previous_probe),
            Slot::ReferenceProbe => owned(&self.kept.reference_probe),
            Slot::Output => self.output,
            Slot::ReferenceOutput => owned(&self.kept.reference_output),
            Slot::Value => self.value,
            Slot::ReferenceValue => {
                self.kept.ladder.first().filter(|_| self.kept.known > 0).map(Borrow::borrow)
            }
        }
    }

    fn reduction(&self, measure: Measure) -> Option<Reduction<'a, E::Tensor>> {
        Some(match measure {
            Measure::MeanAbs(a) => Reduction::MeanAbs(self.get(a)?),
            Measure::MeanAbsDiff(a, b) => Reduction::MeanAbsDiff(self.get(a)?, self.get(b)?),
            Measure::RelL1(a, b) => Reduction::RelL1(self.get(a)?, self.get(b)?),
            Measure::TokenRatio(a, b) => Reduction::TokenRatio(self.get(a)?, self.get(b)?),
            Measure::FrameMotion(a) => Reduction::FrameMotion(self.get(a)?),
        })
    }
}

/// The answers to `request`, or `None` when something that it names is not there.
fn measure<E: ReuseEngine>(
    engine: &E,
    plan: &RunPlan,
    stats: &mut ReuseStats,
    request: &Request,
    slots: &Slots<'_, E>,
) -> Result<Option<SmallVec<[f64; 4]>>, E::Error> {
    if request.is_empty() {
        return Ok(Some(SmallVec::new()));
    }
    let Some(reductions) = request
        .iter()
        .map(|m| slots.reduction(*m))
        .collect::<Option<SmallVec<[Reduction<'_, E::Tensor>; 4]>>>()
    else {
        return Ok(None);
    };
    let signals = engine.measure(&reductions, plan.grid)?;
    stats.count_signals(&signals);
    Ok(Some(signals))
}
