//! ERTACache's calibration.

use super::{ErtaData, Profile, ProfileData, ProfileHeader};
use crate::{ProfileError, RunPlan};

/// Full runs, and what they say about reusing residuals.
///
/// Everything is teacher-forced: the cached residual of step `c` is compared with the residual of step `i` of the same full run.
#[derive(Clone, Debug)]
pub struct ErtaCalibration {
    plan: RunPlan,
    elements: usize,
    /// Runs; inputs and velocities, `[steps, elements]` each.
    runs: Vec<(Vec<f32>, Vec<f32>)>,
}

/// How a profile is chosen from what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErtaChoice {
    /// Relative change of the residual below which a step is reused.
    pub lambda: f64,
    /// Most steps reused in a row.
    pub max_consecutive: u32,
    /// Steps at the start that are computed; at least 1.
    pub warmup: u32,
    /// Lines per innermost channel, of which there are so many; 1 for one line.
    pub groups: usize,
}

impl Default for ErtaChoice {
    fn default() -> Self {
        Self { lambda: 0.08, max_consecutive: u32::MAX, warmup: 1, groups: 1 }
    }
}

impl ErtaCalibration {
    /// Nothing measured yet, for runs of `plan`.
    pub fn new(plan: RunPlan) -> Self {
        Self { plan, elements: 0, runs: Vec::new() }
    }

    /// Adds a full run: the model's input and its velocity at every step.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] for another number of steps, another size, and what is not finite.
    pub fn push(&mut self, steps: &[(Vec<f32>, Vec<f32>)]) -> Result<(), ProfileError> {
        let expected = self.plan.steps() as usize;
        if steps.len() != expected {
            return Err(wrong(format!("{} steps of a run, expected {expected}", steps.len())));
        }
        let elements = if self.runs.is_empty() { steps[0].0.len() } else { self.elements };
        if elements == 0 || steps.iter().any(|(x, v)| x.len() != elements || v.len() != elements) {
            return Err(wrong("steps of different sizes".to_owned()));
        }
        if steps.iter().any(|(x, v)| x.iter().chain(v).any(|e| !e.is_finite())) {
            return Err(wrong("a run is not finite".to_owned()));
        }
        self.elements = elements;
        let inputs = steps.iter().flat_map(|(x, _)| x).copied().collect();
        let velocities = steps.iter().flat_map(|(_, v)| v).copied().collect();
        self.runs.push((inputs, velocities));
        Ok(())
    }

    fn at<'a>(&self, values: &'a [f32], step: usize) -> &'a [f32] {
        &values[step * self.elements..(step + 1) * self.elements]
    }

    /// Residual `r = v - x` of step `a` less that of step `b`, element by element.
    fn shift(&self, run: usize, a: usize, b: usize) -> impl Iterator<Item = f64> {
        let (x, v) = &self.runs[run];
        let (xa, va, xb, vb) = (self.at(x, a), self.at(v, a), self.at(x, b), self.at(v, b));
        let residual = |v: &f32, x: &f32| f64::from(*v) - f64::from(*x);
        (0..self.elements).map(move |i| residual(&va[i], &xa[i]) - residual(&vb[i], &xb[i]))
    }

    /// Mean over runs of the relative change of the residual from step `a` to step `b`.
    fn change(&self, a: usize, b: usize) -> f64 {
        let of_run = |run: usize| {
            let (x, v) = &self.runs[run];
            let pairs = self.at(v, b).iter().zip(self.at(x, b));
            let size: f64 = pairs.map(|(v, x)| (f64::from(*v) - f64::from(*x)).abs()).sum();
            let shift: f64 = self.shift(run, a, b).map(f64::abs).sum();
            if shift == 0.0 { 0.0 } else { shift / size.max(1e-12) }
        };
        (0..self.runs.len()).map(of_run).sum::<f64>() / self.runs.len() as f64
    }

    /// Which steps are reused at a threshold: those whose residual is near that of the last computed one. The first step and the last are
    /// computed.
    pub fn reuse(&self, choice: &ErtaChoice) -> Vec<bool> {
        let steps = self.plan.steps() as usize;
        choose(steps, choice, |a, b| self.change(a, b))
    }

    /// The profile.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] without runs, or when a step would keep nothing of its length.
    pub fn profile(&self, choice: &ErtaChoice, prompts: &str) -> Result<Profile, ProfileError> {
        if self.runs.is_empty() {
            return Err(wrong("no run was measured".to_owned()));
        }
        let groups = choice.groups.max(1);
        if !self.elements.is_multiple_of(groups) {
            return Err(wrong(format!("{} elements are not rows of {groups}", self.elements)));
        }
        let reuse = self.reuse(choice);
        let steps = reuse.len();
        let (mut phi, mut a, mut b) =
            (vec![1f32; steps], vec![0f32; steps * groups], vec![0f32; steps * groups]);
        let mut cached = 0;
        for step in 0..steps {
            if !reuse[step] {
                cached = step;
                continue;
            }
            phi[step] = self.phi(cached, step) as f32;
            for g in 0..groups {
                let (slope, offset) = self.line(cached, step, g, groups);
                (a[step * groups + g], b[step * groups + g]) = (slope as f32, offset as f32);
            }
        }
        let sigmas = adjusted_sigmas(&self.plan.sigmas, &phi);
        if sigmas.windows(2).any(|w| w[1] >= w[0]) {
            return Err(wrong("a step has no length left: choose a lower threshold".to_owned()));
        }
        let settings = format!(
            "lambda {}, at most {} in a row, {} at the start, {groups} line(s) a step, {} runs",
            choice.lambda,
            choice.max_consecutive,
            choice.warmup.max(1),
            self.runs.len()
        );
        let header = ProfileHeader::new("ertacache", &self.plan, prompts, &settings);
        let profile =
            Profile { header, data: ProfileData::Erta(ErtaData { reuse, phi, sigmas, a, b, groups }) };
        profile.validate()?;
        Ok(profile)
    }

    /// `1 - |v~ - v| / |v - v_before|` of a step, clipped: how much of its length a step keeps. At the same input the velocity's error is
    /// the residual's.
    fn phi(&self, cached: usize, step: usize) -> f64 {
        let of_run = |run: usize| {
            let (_, v) = &self.runs[run];
            let error: f64 = self.shift(run, cached, step).map(f64::abs).sum();
            let (now, before) = (self.at(v, step), self.at(v, step - 1));
            let change: f64 =
                now.iter().zip(before).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
            let size: f64 = now.iter().map(|x| f64::from(*x).abs()).sum();
            fraction_kept(error, change, size)
        };
        // A step keeps something of its length whatever its error: the model cannot be called twice at one noise level.
        ((0..self.runs.len()).map(of_run).sum::<f64>() / self.runs.len() as f64).max(1e-3)
    }

    /// The line `error ~ a v~ + b` of one group of channels.
    fn line(&self, cached: usize, step: usize, group: usize, groups: usize) -> (f64, f64) {
        let mut fit = LineFit::default();
        for run in 0..self.runs.len() {
            let (x, v) = &self.runs[run];
            let (x, v, xc, vc) = (self.at(x, step), self.at(v, step), self.at(x, cached), self.at(v, cached));
            for i in (group..self.elements).step_by(groups) {
                let velocity = f64::from(x[i]) + (f64::from(vc[i]) - f64::from(xc[i]));
                fit.add(velocity, velocity - f64::from(v[i]));
            }
        }
        fit.line()
    }
}

fn wrong(what: String) -> ProfileError {
    ProfileError::Calibration(what)
}

/// Marks the steps that are near enough to the last computed one before them.
pub fn choose(steps: usize, choice: &ErtaChoice, change: impl Fn(usize, usize) -> f64) -> Vec<bool> {
    let mut reuse = vec![false; steps];
    let (mut cached, mut row) = (0, 0);
    let last = steps.saturating_sub(1);
    for (step, reuse) in reuse.iter_mut().enumerate().take(last).skip(choice.warmup.max(1) as usize) {
        if row == 0 {
            cached = step - 1;
        }
        *reuse = row < choice.max_consecutive && change(cached, step) < choice.lambda;
        row = if *reuse { row + 1 } else { 0 };
    }
    reuse
}

/// Noise levels whose steps are `phi` of what they would be, the rest spread over the steps that follow. They end where the plan's do when
/// the last step keeps its length.
pub fn adjusted_sigmas(sigmas: &[f32], phi: &[f32]) -> Vec<f32> {
    let lengths: Vec<f64> = sigmas.windows(2).map(|w| f64::from(w[0]) - f64::from(w[1])).collect();
    let (Some(first), Some(last)) = (sigmas.first(), sigmas.last()) else { return Vec::new() };
    let mut nominal: f64 = lengths.iter().sum();
    let mut left = nominal;
    let mut adjusted = vec![*first];
    let end = f64::from(*last);
    for (i, (length, phi)) in lengths.iter().zip(phi).enumerate() {
        let step = length * (left / nominal) * f64::from(*phi);
        left -= step;
        nominal -= length;
        let exact = i + 1 == lengths.len() && *phi == 1.0;
        adjusted.push(if exact { *last } else { (end + left) as f32 });
    }
    adjusted
}

/// `1 - error / change`, clipped; where nothing changes, everything is kept unless there is an error.
pub fn fraction_kept(error: f64, change: f64, size: f64) -> f64 {
    if change < 1e-12 * size {
        return if error < 1e-12 * size { 1.0 } else { 0.0 };
    }
    if change == 0.0 {
        return if error == 0.0 { 1.0 } else { 0.0 };
    }
    (1.0 - error / change).clamp(0.0, 1.0)
}

/// Least squares of a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineFit {
    n: f64,
    mean: [f64; 2],
    xx: f64,
    xy: f64,
}

impl LineFit {
    /// Adds a point.
    pub fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        let (dx, dy) = (x - self.mean[0], y - self.mean[1]);
        self.mean[0] += dx / self.n;
        self.mean[1] += dy / self.n;
        self.xx += dx * (x - self.mean[0]);
        self.xy += dx * (y - self.mean[1]);
    }

    /// Slope and offset; a slope of 0 where all points have one `x`.
    pub fn line(&self) -> (f64, f64) {
        let slope = if self.xx > 0.0 { self.xy / self.xx } else { 0.0 };
        (slope, self.mean[1] - slope * self.mean[0])
    }
}
