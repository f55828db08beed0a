//! Means and second moments of a unit's keys or values: the summaries that make old tokens unnecessary to read again.

use smallvec::SmallVec;

use crate::{CoreError, Spread};

/// Per-channel moments of `count` tokens: `mean[c]` and `m2[c]`, the sum of squared deviations, over `heads * head_dim` channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MomentsView<'a> {
    /// Tokens summarised.
    pub count: u64,
    /// Mean of each channel.
    pub mean: &'a [f32],
    /// Sum of squared deviations from the mean, of each channel.
    pub m2: &'a [f32],
}

/// Owned moments; see [`MomentsView`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Tokens summarised.
    pub count: u64,
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Sum of squared deviations from the mean, of each channel.
    pub m2: Vec<f32>,
}

impl Moments {
    /// Moments of `tokens`, rows of `channels` numbers. Accumulates in `f64`, so a constant channel has exactly its value as mean
    /// and 0 as `m2`.
    pub fn of_tokens(tokens: &[f32], channels: usize) -> Self {
        let mut moments = Self { count: 0, mean: vec![0.0; channels], m2: vec![0.0; channels] };
        moments.count = accumulate(tokens, channels, &mut moments.mean, &mut moments.m2);
        moments
    }

    /// Exact moments of the union of `parts` (Chan's rule), in `f64` internally. No parts give a count of 0.
    ///
    /// # Errors
    /// [`CoreError::Count`] when the parts have different numbers of channels.
    pub fn merge<'a>(parts: impl IntoIterator<Item = MomentsView<'a>>) -> Result<Self, CoreError> {
        let parts: SmallVec<[MomentsView<'a>; 32]> = parts.into_iter().collect();
        let count: u64 = parts.iter().map(|p| p.count).sum();
        let Some(channels) = parts.first().map(|p| p.mean.len()) else {
            return Ok(Self::default());
        };
        if let Some(got) = parts.iter().flat_map(|p| [p.mean.len(), p.m2.len()]).find(|&c| c != channels) {
            return Err(CoreError::Count { what: "channels of merged moments", expected: channels, got });
        }
        let mut mean = vec![0f64; channels];
        let mut m2 = vec![0f64; channels];
        if count > 0 {
            for part in &parts {
                let weight = part.count as f64 / count as f64;
                mean.iter_mut().zip(part.mean).for_each(|(m, &p)| *m += weight * f64::from(p));
            }
            for part in &parts {
                for ((total, mean), (&part_mean, &part_m2)) in
                    m2.iter_mut().zip(&mean).zip(part.mean.iter().zip(part.m2))
                {
                    let d = f64::from(part_mean) - mean;
                    *total += f64::from(part_m2) + part.count as f64 * d * d;
                }
            }
        }
        Ok(Self { count, mean: narrow(&mean), m2: narrow(&m2) })
    }

    /// Borrowed form.
    pub fn view(&self) -> MomentsView<'_> {
        MomentsView { count: self.count, mean: &self.mean, m2: &self.m2 }
    }
}

impl MomentsView<'_> {
    /// Population standard deviation of `channel`; 0 for no tokens.
    pub fn sd(&self, channel: usize) -> f32 {
        if self.count == 0 { 0.0 } else { (f64::from(self.m2[channel]) / self.count as f64).sqrt() as f32 }
    }

    /// Mean and standard deviation of `channel`.
    pub fn spread(&self, channel: usize) -> Spread {
        Spread { mean: self.mean[channel], sd: self.sd(channel) }
    }
}

/// Writes the moments of `tokens` (rows of `channels`) to `mean` and `m2` and returns the token count.
fn accumulate(tokens: &[f32], channels: usize, mean: &mut [f32], m2: &mut [f32]) -> u64 {
    let rows = tokens.chunks_exact(channels.max(1));
    let count = rows.len();
    let mut sum = vec![0f64; channels];
    for row in rows.clone() {
        sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
    }
    if count > 0 {
        sum.iter_mut().for_each(|s| *s /= count as f64);
    }
    let mut squares = vec![0f64; channels];
    for row in rows {
        for ((square, mean), &x) in squares.iter_mut().zip(&sum).zip(row) {
            let d = f64::from(x) - mean;
            *square += d * d;
        }
    }
    mean.iter_mut().zip(&sum).for_each(|(m, &s)| *m = s as f32);
    m2.iter_mut().zip(&squares).for_each(|(m, &s)| *m = s as f32);
    count as u64
}

fn narrow(wide: &[f64]) -> Vec<f32> {
    wide.iter().map(|&x| x as f32).collect()
}
