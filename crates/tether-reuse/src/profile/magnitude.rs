//! MagCache's calibration.

use super::{Profile, ProfileData, ProfileHeader};
use crate::engine::{Grid, Reduction, ReuseEngine};
use crate::host::HostReuse;
use crate::{ProfileError, ReuseError, RunPlan};

/// Ratios of residuals' lengths from one step to the next, averaged over runs.
#[derive(Clone, Debug)]
pub struct MagCalibration {
    plan: RunPlan,
    sums: Vec<f64>,
    runs: u32,
}

impl MagCalibration {
    /// Nothing measured yet, for runs of `plan`.
    pub fn new(plan: RunPlan) -> Self {
        let steps = plan.steps() as usize;
        Self { plan, sums: vec![0.0; steps], runs: 0 }
    }

    /// Adds a full run: the residual, output less input of the block stack, of every step, `[tokens, channels]`.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] for another number of steps, and residuals that are not the grid's tokens.
    pub fn push(&mut self, residuals: &[Vec<f32>]) -> Result<(), ProfileError> {
        if residuals.len() != self.sums.len() {
            let (got, expected) = (residuals.len(), self.sums.len());
            return Err(ProfileError::Calibration(format!("{got} steps of a run, expected {expected}")));
        }
        let grid: Grid = self.plan.grid;
        let ratio = |pair: &[Vec<f32>]| -> Result<f64, ReuseError> {
            Ok(HostReuse.measure(&[Reduction::TokenRatio(&pair[1][..], &pair[0][..])], grid)?[0])
        };
        let ratios = residuals.windows(2).map(ratio).collect::<Result<Vec<f64>, _>>();
        let ratios = ratios.map_err(|e| ProfileError::Calibration(e.to_string()))?;
        self.runs += 1;
        for (sum, ratio) in self.sums.iter_mut().zip(std::iter::once(1.0).chain(ratios)) {
            *sum += ratio;
        }
        Ok(())
    }

    /// The profile. Ratios are rounded to 5 digits, as published ones are.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] without runs, [`ProfileError::Array`] when a ratio is not finite.
    pub fn profile(&self, prompts: &str) -> Result<Profile, ProfileError> {
        if self.runs == 0 {
            return Err(ProfileError::Calibration("no run was measured".to_owned()));
        }
        let ratios = self.sums.iter().map(|s| (s / f64::from(self.runs) * 1e5).round() / 1e5).collect();
        let header = ProfileHeader::new("magcache", &self.plan, prompts, &format!("{} runs", self.runs));
        let profile = Profile { header, data: ProfileData::Mag { ratios } };
        profile.validate()?;
        Ok(profile)
    }
}
