//! ERTACache.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::profile::{ErtaData, Profile, ProfileData};
use crate::{Correction, ProfileError, ReuseError, RunPlan, Step, StepReusePolicy, Verdict};

/// Which of ERTACache's corrections are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Correct {
    /// Shorter steps where the cached velocity errs.
    pub time: bool,
    /// The fitted error is taken off the velocity.
    pub error: bool,
}

impl Default for Correct {
    fn default() -> Self {
        Self { time: true, error: true }
    }
}

/// ERTACache (arXiv:2508.21091). Everything is measured beforehand: which steps are reused, how much shorter their time steps are, and a
/// straight line for the error of the cached velocity, which is taken off it. At run time nothing is measured.
///
/// The model must be called at the noise levels that [`begin`](StepReusePolicy::begin) returns.
#[derive(Clone, Debug)]
pub struct ErtaCache {
    profile: Profile,
    correct: Correct,
    /// Slopes and offsets by step.
    lines: Vec<Line>,
}

/// Slopes and offsets of a step.
type Line = (Arc<[f32]>, Arc<[f32]>);

impl ErtaCache {
    /// The policy of a profile.
    ///
    /// # Errors
    /// [`ProfileError::Kind`], and [`ProfileError::Array`] when the profile is not sound.
    pub fn new(profile: Profile, correct: Correct) -> Result<Self, ProfileError> {
        profile.validate()?;
        let ProfileData::Erta(data) = &profile.data else {
            return Err(ProfileError::Kind { expected: "ertacache", got: profile.data.kind() });
        };
        let ErtaData { a, b, groups, .. } = data;
        let lines = a.chunks_exact(*groups).zip(b.chunks_exact(*groups));
        let lines = lines.map(|(a, b)| (a.into(), b.into())).collect();
        Ok(Self { profile, correct, lines })
    }

    fn data(&self) -> Option<&ErtaData> {
        match &self.profile.data {
            ProfileData::Erta(data) => Some(data),
            _ => None,
        }
    }
}

impl StepReusePolicy for ErtaCache {
    fn name(&self) -> &'static str {
        "ertacache"
    }

    fn begin(&mut self, plan: &RunPlan) -> Result<Option<Vec<f32>>, ReuseError> {
        self.profile.header.check(plan)?;
        if !self.correct.time {
            return Ok(None);
        }
        let sigmas = self.data().map(|d| d.sigmas.clone()).filter(|s| *s != plan.sigmas);
        // Lengths of steps change, not where the run begins and ends: else noise would stay.
        let ends = |s: &[f32]| [s.first().copied(), s.last().copied()].map(Option::unwrap_or_default);
        let near = |[a, b]: [f32; 2]| (a - b).abs() <= 1e-4;
        if let Some(sigmas) = &sigmas {
            let [first, last] = ends(sigmas);
            let [begin, end] = ends(&plan.sigmas);
            if !(near([first, begin]) && near([last, end])) {
                let (profile, run) = (format!("{first} to {last}"), format!("{begin} to {end}"));
                return Err(ProfileError::Mismatch { what: "noise levels", profile, run }.into());
            }
        }
        if sigmas.is_some() && !plan.free_sigmas {
            return Err(ProfileError::FixedSigmas { scheduler: plan.scheduler.clone() }.into());
        }
        Ok(sigmas)
    }

    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        let index = step.index as usize;
        if !self.data().is_some_and(|d| d.reuse.get(index).is_some_and(|r| *r)) {
            return Verdict::Compute;
        }
        match self.lines.get(index) {
            Some((a, b)) if self.correct.error => {
                Verdict::Reuse(Correction::Affine { a: a.clone(), b: b.clone() })
            }
            _ => Verdict::HOLD,
        }
    }

    fn reset(&mut self) {}

    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}
