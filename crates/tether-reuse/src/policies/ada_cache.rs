//! AdaCache.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::lane::{Place, Unit};
use crate::{Measure, Request, ReuseError, RunPlan, Scope, Slot, Step, StepReusePolicy, Verdict};

/// Motion regularisation: scenes that move are reused less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MotionRegulation {
    /// Motion that leaves the distance as it is.
    pub scale: f64,
    /// Power of the motion.
    pub power: i32,
    /// Weight of the change of motion per step.
    pub gradient: f64,
    /// First step at which it is made.
    pub from: u32,
    /// First step at which it is no longer made.
    pub to: u32,
}

impl Default for MotionRegulation {
    fn default() -> Self {
        Self { scale: 0.385, power: 8, gradient: 10.0, from: 10, to: 90 }
    }
}

impl MotionRegulation {
    /// `(motion / scale) ^ power`.
    pub fn factor(&self, motion: f64) -> f64 {
        (motion / self.scale).powi(self.power)
    }
}

/// AdaCache (arXiv:2411.02397). At every computed step the change of the monitored blocks' output, per step since the last computed one,
/// chooses from a codebook how many steps pass until the next.
///
/// One state serves the whole run: all places follow the monitored ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaCache {
    /// Pairs of a distance and an interval, by distance: the first distance above the measured one counts. Beyond the last, 1.
    pub codebook: Vec<(f64, u32)>,
    /// Blocks that are looked at; empty for all. Other places than modules are always looked at.
    pub monitored: Vec<u16>,
    /// Motion regularisation.
    pub motion: Option<MotionRegulation>,
    #[serde(skip)]
    state: State,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Step that was last computed, and its interval.
    computed: Option<u32>,
    interval: u32,
    /// The decision of a step, the same for every unit.
    decided: Option<(u32, bool)>,
    /// Distances at the step that is being observed: which, how many, their sum.
    observed: (u32, u32, f64),
    /// What the interval was that led to the step under observation.
    led: u32,
    motion: Vec<(Unit, f64)>,
}

impl Default for AdaCache {
    fn default() -> Self {
        Self {
            // The 30-step codebook, fast.
            codebook: vec![(0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2)],
            monitored: Vec::new(),
            motion: None,
            state: State::default(),
        }
    }
}

impl AdaCache {
    fn watches(&self, place: Place) -> bool {
        match place {
            Place::Module { layer, .. } => self.monitored.is_empty() || self.monitored.contains(&layer),
            _ => true,
        }
    }

    fn interval(&self, distance: f64) -> u32 {
        self.codebook.iter().find(|(d, _)| *d > distance).map_or(1, |(_, n)| *n)
    }
}

impl StepReusePolicy for AdaCache {
    fn name(&self) -> &'static str {
        "adacache"
    }

    fn scope(&self) -> Scope {
        Scope::Run
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        for (distance, interval) in &self.codebook {
            require(distance.is_finite(), "adacache", "codebook distance", *distance, "must be finite")?;
            let n = f64::from(*interval);
            require(*interval > 0, "adacache", "codebook interval", n, "must be positive")?;
        }
        if let Some(pair) = self.codebook.windows(2).find(|w| w[1].0 <= w[0].0) {
            require(false, "adacache", "codebook distance", pair[1].0, "must rise")?;
        }
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let s = &mut self.state;
        let due = match s.decided {
            Some((index, due)) if index == step.index => due,
            _ => {
                let elapsed = s.computed.map_or(u32::MAX, |c| step.index.saturating_sub(c));
                let due = elapsed >= s.interval.max(1);
                s.decided = Some((step.index, due));
                due
            }
        };
        if due { Verdict::Compute } else { Verdict::HOLD }
    }

    fn forced(&mut self, step: &Step) {
        self.state.decided = Some((step.index, true));
    }

    fn observe_request(&self, step: &Step) -> Request {
        if !self.watches(step.unit.place) || self.state.computed.is_none() {
            return Request::new();
        }
        let mut request: Request = [Measure::RelL1(Slot::Value, Slot::ReferenceValue)].as_slice().into();
        if self.motion.is_some_and(|m| (m.from..m.to).contains(&step.index)) {
            request.push(Measure::FrameMotion(Slot::Value));
        }
        request
    }

    fn observe(&mut self, step: &Step, signals: &[f64]) {
        let first = self.state.computed != Some(step.index);
        if first {
            let s = &mut self.state;
            s.led = s.computed.map_or(0, |c| step.index.saturating_sub(c));
            s.computed = Some(step.index);
            s.observed = (step.index, 0, 0.0);
            s.interval = 1;
        }
        if !self.watches(step.unit.place) || self.state.led == 0 {
            return;
        }
        let Some(&change) = signals.first() else { return };
        let led = f64::from(self.state.led);
        let mut distance = change / led;
        if let (Some(m), Some(&motion)) = (self.motion, signals.get(1)) {
            let motion = m.factor(motion);
            let before = self.state.motion.iter_mut().find(|(unit, _)| *unit == step.unit);
            let mut factor = motion;
            match before {
                Some((_, before)) => {
                    factor += (m.gradient * (motion - *before) / led).abs();
                    *before = motion;
                }
                None => self.state.motion.push((step.unit, motion)),
            }
            distance *= factor;
        }
        let (_, count, sum) = &mut self.state.observed;
        (*count, *sum) = (*count + 1, *sum + distance);
        let mean = *sum / f64::from(*count);
        self.state.interval = if mean.is_finite() { self.interval(mean) } else { 1 };
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
