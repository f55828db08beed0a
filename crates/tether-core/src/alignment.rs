//! Aligning one channel's statistics to a trusted pool's, and what that does to its moments.

/// Where the numbers of a channel lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f32,
    /// Standard deviation.
    pub sd: f32,
}

/// `x' = (1 - tau) x + tau (sd_target (x - mean) / sd + mean_target)`, the adaptive instance normalisation of TAME
/// (arXiv:2606.13035), for one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelAlignment {
    /// Strength, 0 (untouched) to 1 (the target's mean and deviation).
    pub tau: f32,
    /// The channel's own mean.
    pub mean: f32,
    /// The channel's own standard deviation, not below the floor.
    pub sd: f32,
    /// The trusted pool's mean.
    pub target_mean: f32,
    /// The trusted pool's standard deviation, not below the floor.
    pub target_sd: f32,
}

impl ChannelAlignment {
    /// Standard deviations are not taken below this.
    pub const SD_FLOOR: f32 = 1e-6;

    /// Alignment of a channel to a trusted pool.
    pub fn new(tau: f32, channel: Spread, trusted: Spread) -> Self {
        let floored = |spread: Spread| spread.sd.max(Self::SD_FLOOR);
        Self {
            tau,
            mean: channel.mean,
            sd: floored(channel),
            target_mean: trusted.mean,
            target_sd: floored(trusted),
        }
    }

    /// The edited value of `x`. Centred before it is scaled: the equivalent `a x + b` cancels badly where `sd` is at the floor.
    #[inline]
    pub fn apply(&self, x: f32) -> f32 {
        (1.0 - self.tau) * x + self.tau * ((x - self.mean) / self.sd * self.target_sd + self.target_mean)
    }

    /// Mean and sum of squared deviations after the edit, of a channel that had `m2`: no token is read again.
    ///
    /// `mean` is the mean of the edited tokens themselves, which differs from [`ChannelAlignment::mean`] when the statistics were
    /// taken over a larger group.
    pub fn moments_after(&self, mean: f32, m2: f32) -> (f32, f32) {
        let scale = (1.0 - f64::from(self.tau))
            + f64::from(self.tau) * f64::from(self.target_sd) / f64::from(self.sd);
        (self.apply(mean), (scale * scale * f64::from(m2)) as f32)
    }
}
