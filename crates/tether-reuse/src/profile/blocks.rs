//! ProfilingDiT's measurement of blocks.

use super::{Profile, ProfileData, ProfileHeader};
use crate::{ProfileError, RunPlan};

/// How much of the foreground each block attends to: the part of the foreground's tokens that receive more attention than the threshold.
#[derive(Clone, Debug)]
pub struct BlockProfiler {
    /// Attention, in units of an even share, above which a token counts.
    threshold: f64,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl BlockProfiler {
    /// Nothing measured yet, for `blocks` blocks. A token counts when it receives more than `threshold` times an even share of attention.
    pub fn new(blocks: usize, threshold: f64) -> Self {
        Self { threshold, sums: vec![0.0; blocks], counts: vec![0; blocks] }
    }

    /// Adds what the tokens of one picture receive in `block`, see [`received_attention`], and which of them are foreground.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] for a block that there is not, lengths that differ, and a foreground without tokens.
    pub fn push(&mut self, block: usize, received: &[f64], foreground: &[bool]) -> Result<(), ProfileError> {
        let wrong = |what: &str| ProfileError::Calibration(what.to_owned());
        if block >= self.sums.len() {
            return Err(wrong("a block that the model does not have"));
        }
        if received.len() != foreground.len() {
            return Err(wrong("attention and mask have different lengths"));
        }
        let total: f64 = received.iter().sum();
        let share = total / received.len().max(1) as f64;
        let members = foreground.iter().filter(|f| **f).count();
        if members == 0 || !total.is_finite() {
            return Err(wrong("a picture without foreground, or attention that is not a number"));
        }
        let high =
            received.iter().zip(foreground).filter(|(r, f)| **f && **r > self.threshold * share).count();
        self.sums[block] += high as f64 / members as f64;
        self.counts[block] += 1;
        Ok(())
    }

    /// Mean part of the foreground that receives much attention, by block.
    ///
    /// # Errors
    /// [`ProfileError::Calibration`] when a block was not measured.
    pub fn foreground(&self) -> Result<Vec<f32>, ProfileError> {
        if self.counts.contains(&0) {
            return Err(ProfileError::Calibration("a block was not measured".to_owned()));
        }
        Ok(self.sums.iter().zip(&self.counts).map(|(s, n)| (s / f64::from(*n)) as f32).collect())
    }

    /// The profile: blocks below `tau` are background and are cached.
    ///
    /// # Errors
    /// As [`BlockProfiler::foreground`].
    pub fn profile(&self, plan: &RunPlan, tau: f32, prompts: &str) -> Result<Profile, ProfileError> {
        let foreground = self.foreground()?;
        let below = foreground.iter().enumerate().filter(|(_, r)| **r < tau);
        let background = below.map(|(block, _)| block as u16).collect();
        let settings = format!("above {} of an even share, below {tau} of the foreground", self.threshold);
        let header = ProfileHeader::new("profiling-dit", plan, prompts, &settings);
        let profile = Profile { header, data: ProfileData::Blocks { foreground, background } };
        profile.validate()?;
        Ok(profile)
    }
}

/// What every key receives: the mean over queries and heads of the softmax of `q . k / sqrt(dim)`. `q` and `k` are `[tokens, heads, dim]`,
/// as attention uses them.
///
/// # Errors
/// [`ProfileError::Calibration`] when the lengths are not whole tokens.
pub fn received_attention(q: &[f32], k: &[f32], heads: usize, dim: usize) -> Result<Vec<f64>, ProfileError> {
    let row = heads * dim;
    if row == 0
        || q.is_empty()
        || k.is_empty()
        || !q.len().is_multiple_of(row)
        || !k.len().is_multiple_of(row)
    {
        return Err(ProfileError::Calibration("queries or keys are not whole tokens".to_owned()));
    }
    let (queries, keys) = (q.len() / row, k.len() / row);
    let mut received = vec![0.0; keys];
    let mut weights = vec![0.0; keys];
    for query in 0..queries {
        for head in 0..heads {
            let q = &q[query * row + head * dim..][..dim];
            for (key, weight) in weights.iter_mut().enumerate() {
                let k = &k[key * row + head * dim..][..dim];
                let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                *weight = dot / (dim as f64).sqrt();
            }
            let highest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            weights.iter_mut().for_each(|w| *w = (*w - highest).exp());
            let sum: f64 = weights.iter().sum();
            for (r, w) in received.iter_mut().zip(&weights) {
                *r += w / (sum * (queries * heads) as f64);
            }
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_attention_sums_to_one_and_finds_the_key_that_is_asked_for() {
        // Two tokens of one head: both queries want the second key.
        let (q, k) = ([0.0f32, 4.0, 0.0, 4.0], [4.0f32, 0.0, 0.0, 4.0]);
        let got = received_attention(&q, &k, 1, 2).unwrap();
        assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let low = 1.0 / (1.0 + (16.0 / 2f64.sqrt()).exp());
        assert!((got[0] - low).abs() < 1e-12);
        assert!(received_attention(&q[..3], &k, 1, 2).is_err());
    }

    #[test]
    fn blocks_are_background_when_the_foreground_gets_little() {
        let plan = RunPlan::new("m", "s", "r", &[1.0, 0.0]);
        let mut profiler = BlockProfiler::new(2, 1.0);
        assert!(profiler.profile(&plan, 0.5, "").is_err(), "nothing was measured");
        let mask = [true, true, false, false];
        profiler.push(0, &[0.4, 0.4, 0.1, 0.1], &mask).unwrap();
        profiler.push(0, &[0.4, 0.2, 0.2, 0.2], &mask).unwrap();
        profiler.push(1, &[0.1, 0.1, 0.4, 0.4], &mask).unwrap();
        assert_eq!(profiler.foreground().unwrap(), [0.75, 0.0]);
        let ProfileData::Blocks { background, .. } = profiler.profile(&plan, 0.5, "").unwrap().data else {
            unreachable!()
        };
        assert_eq!(background, [1]);
        assert!(profiler.push(2, &[1.0], &[true]).is_err());
        assert!(profiler.push(0, &[1.0], &[false]).is_err());
        assert!(profiler.push(0, &[1.0], &[true, true]).is_err());
    }
}
