//! Pyramid attention broadcast.

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::lane::{ModuleKind, Place};
use crate::{ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// How long a kind of module is broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    /// Steps that one output serves. 1 computes all.
    pub range: u32,
    /// Noise level, 0 to 1, that must be exceeded.
    pub above: f32,
    /// Noise level, 0 to 1, that must not be reached.
    pub below: f32,
}

/// The settings of one kind of module: none leaves it alone.
pub type PabModule = Option<Broadcast>;

/// PAB (arXiv:2408.12588). The outputs of attention are broadcast to the following steps, longer for kinds of attention whose outputs change
/// less, while the noise level is in the middle range where they change least.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pab {
    /// Attention within frames.
    pub spatial: PabModule,
    /// Attention between frames.
    pub temporal: PabModule,
    /// Attention to the prompt.
    pub cross: PabModule,
    /// The feed-forward network.
    pub mlp: PabModule,
    #[serde(skip)]
    count: u32,
}

impl Default for Pab {
    fn default() -> Self {
        // Open-Sora's published settings; its time scale is 0 to 1000.
        let of = |range| Some(Broadcast { range, above: 0.45, below: 0.93 });
        Self::new(of(2), of(4), of(6), None)
    }
}

impl Pab {
    /// Settings of attention within frames, between frames and to the prompt, and of the feed-forward network.
    pub fn new(spatial: PabModule, temporal: PabModule, cross: PabModule, mlp: PabModule) -> Self {
        Self { spatial, temporal, cross, mlp, count: 0 }
    }

    fn of(&self, place: Place) -> PabModule {
        match place {
            Place::Module { kind: ModuleKind::SpatialAttention, .. } => self.spatial,
            Place::Module { kind: ModuleKind::TemporalAttention, .. } => self.temporal,
            Place::Module { kind: ModuleKind::CrossAttention, .. } => self.cross,
            Place::Module { kind: ModuleKind::Mlp, .. } => self.mlp,
            // Another place has no kind of attention.
            Place::Model | Place::Solver | Place::Span(_) => None,
        }
    }
}

impl StepReusePolicy for Pab {
    fn name(&self) -> &'static str {
        "pab"
    }

    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.reset();
        for b in [self.spatial, self.temporal, self.cross, self.mlp].into_iter().flatten() {
            require(b.range > 0, "pab", "range", f64::from(b.range), "must be positive")?;
            require(b.above <= b.below, "pab", "above", f64::from(b.above), "must not exceed `below`")?;
        }
        Ok(None)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let count = self.count;
        self.count = count.wrapping_add(1);
        match self.of(step.unit.place) {
            Some(b) if step.sigma > b.above && step.sigma < b.below && !count.is_multiple_of(b.range) => {
                Verdict::HOLD
            }
            _ => Verdict::Compute,
        }
    }

    fn forced(&mut self, _: &Step) {
        self.count = self.count.wrapping_add(1);
    }

    fn reset(&mut self) {
        self.count = 0;
    }

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
