//! FlowCache, chunk by chunk.

use serde::{Deserialize, Serialize};

use super::accumulator::Accumulator;
use crate::error::require;
use crate::{Correction, Measure, Needs, Request, ReuseError, RunPlan, Slot, Step, StepReusePolicy, Verdict};

/// What FlowCache keeps of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowMode {
    /// The solver's displacement as it was, whatever the length of its step.
    Displacement,
    /// The displacement scaled to the length of this step; the same where steps are equally long.
    #[default]
    Velocity,
}

/// FlowCache (arXiv:2602.10825), the part that reuses steps. Chunks of an autoregressive video stand at different noise levels in one
/// forward pass, and each decides by itself: the relative change of its probe adds up, and it is reused while the sum is below the
/// threshold.
///
/// Every chunk is a [`Unit`](crate::Unit) of its own; one that left the window is [retired](crate::StepReuse::retire). The published
/// probe is the patch embedding of the chunk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowCache {
    /// Sum of changes at which a step is computed.
    pub threshold: f64,
    /// Steps of a chunk's own that are always computed.
    pub chunk_warmup: u32,
    /// What is kept.
    pub mode: FlowMode,
    #[serde(skip)]
    error: Accumulator,
    /// Length of the last computed step.
    #[serde(skip)]
    length: f32,
}

impl Default for FlowCache {
    fn default() -> Self {
        Self::new(0.015)
    }
}

impl FlowCache {
    /// FlowCache with a threshold and the published warm-up of 5 steps.
    pub fn new(threshold: f64) -> Self {
        Self {
            threshold,
            chunk_warmup: 5,
            mode: FlowMode::default(),
            error: Accumulator::default(),
            length: 0.0,
        }
    }

    /// With another warm-up of each chunk.
    #[must_use]
    pub fn warmup(self, chunk_warmup: u32) -> Self {
        Self { chunk_warmup, ..self }
    }

    /// Keeping something else.
    #[must_use]
    pub fn mode(self, mode: FlowMode) -> Self {
        Self { mode, ..self }
    }
}

impl StepReusePolicy for FlowCache {
    fn name(&self) -> &'static str {
        "flowcache"
    }

    fn needs(&self) -> Needs {
        Needs { previous_probe: true, ..Needs::default() }
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        require(self.threshold >= 0.0, "flowcache", "threshold", self.threshold, "must not be negative")?;
        Ok(None)
    }

    fn request(&self, step: &Step) -> Request {
        if step.unit_step < self.chunk_warmup {
            return Request::new();
        }
        [Measure::RelL1(Slot::Probe, Slot::PreviousProbe)].as_slice().into()
    }

    fn decide(&mut self, step: &Step, signals: &[f64]) -> Verdict {
        if step.unit_step < self.chunk_warmup {
            self.error.clear();
            return Verdict::Compute;
        }
        let change = signals.first().copied().unwrap_or(f64::NAN);
        let verdict = self.error.decide(change, self.threshold);
        let scale = (step.sigma_next - step.sigma) / self.length;
        match self.mode {
            FlowMode::Velocity if !verdict.is_compute() => {
                if scale.is_finite() {
                    Verdict::Reuse(Correction::Scale(scale))
                } else {
                    self.error.clear();
                    Verdict::Compute
                }
            }
            _ => verdict,
        }
    }

    fn forced(&mut self, _: &Step) {
        self.error.clear();
    }

    fn observe(&mut self, step: &Step, _: &[f64]) {
        self.length = step.sigma_next - step.sigma;
    }

    fn reset(&mut self) {
        self.error.clear();
        self.length = 0.0;
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
