//! GRAB, gated recall: attention mass plus temporal diversity.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::{Diversity, FrameCandidates, ScoreError, ScoreFrames, attention_mass, temporal_diversity};

/// Whether sequences that are generated side by side share statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchStatistics {
    /// Every sequence is scored and edited by itself.
    #[default]
    PerSample,
    /// Scores are averaged, and moments pooled, over the batch: what the published code does.
    Mixed,
}

impl BatchStatistics {
    /// Averages scores over the batch, where sequences share statistics.
    pub(crate) fn settle(self, scores: &mut [UnitScores]) -> Result<(), ScoreError> {
        if self == Self::PerSample || scores.len() < 2 {
            return Ok(());
        }
        let mut mean = vec![0f32; scores[0].score.len()];
        for s in &*scores {
            if s.score.len() != mean.len() {
                return Err(ScoreError::Count { what: "scores", expected: mean.len(), got: s.score.len() });
            }
            mean.iter_mut().zip(&s.score).for_each(|(m, x)| *m += x);
        }
        mean.iter_mut().for_each(|m| *m /= scores.len() as f32);
        scores.iter_mut().for_each(|s| s.score.clone_from(&mean));
        Ok(())
    }
}

/// Scores of one sequence's candidates, with the parts they were made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnitScores {
    /// Attention mass, sums to 1.
    pub mass: Vec<f32>,
    /// Diversity, 0 to 1; zeros without a diversity term.
    pub diversity: Vec<f32>,
    /// `mass + alpha * diversity`; the same for all sequences under [`BatchStatistics::Mixed`].
    pub score: Vec<f32>,
}

/// The scorer of TetherCache (arXiv:2606.13035).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedRecall {
    /// Softmax temperature, above 0.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Diversity term; none means attention mass alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<Diversity>,
}

impl Settings for GatedRecall {
    const KIND: &'static str = "attention-mass";
}

impl ScoreFrames for GatedRecall {
    fn validate(&self) -> Result<(), ScoreError> {
        Self::validate(self)
    }

    fn score(&self, seen: FrameCandidates<'_>) -> Result<UnitScores, ScoreError> {
        Self::score(self, seen.logits, seen.frames)
    }
}

fn one() -> f32 {
    1.0
}

impl GatedRecall {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for the first one out of range.
    pub fn validate(&self) -> Result<(), ScoreError> {
        attention_mass(&[], self.temperature)?;
        match self.diversity {
            Some(Diversity::Temporal { alpha }) if !(alpha >= 0.0 && alpha.is_finite()) => {
                let requirement = "must be finite and at least 0";
                Err(ScoreError::Setting { setting: "diversity.alpha", value: alpha, requirement })
            }
            _ => Ok(()),
        }
    }

    /// Scores one sequence: `logits` are the candidates' mean attention logits, `units` their indices in time.
    ///
    /// # Errors
    /// [`ScoreError::NonFinite`], [`ScoreError::Count`], [`ScoreError::Setting`].
    pub fn score(&self, logits: &[f32], units: &[u64]) -> Result<UnitScores, ScoreError> {
        self.validate()?;
        if logits.len() != units.len() {
            return Err(ScoreError::Count { what: "logits", expected: units.len(), got: logits.len() });
        }
        let mass = attention_mass(logits, self.temperature)?;
        let (alpha, diversity) = match self.diversity {
            Some(Diversity::Temporal { alpha }) => (alpha, temporal_diversity(units, &mass)?),
            None => (0.0, vec![0.0; units.len()]),
        };
        let score = mass.iter().zip(&diversity).map(|(m, d)| m + alpha * d).collect();
        Ok(UnitScores { mass, diversity, score })
    }

    /// Scores all sequences of a batch.
    ///
    /// # Errors
    /// As [`GatedRecall::score`]; under [`BatchStatistics::Mixed`] also [`ScoreError::Count`] when sequences have different numbers
    /// of candidates.
    pub fn score_batch<'a>(
        &self,
        sequences: impl IntoIterator<Item = (&'a [f32], &'a [u64])>,
        statistics: BatchStatistics,
    ) -> Result<Vec<UnitScores>, ScoreError> {
        let mut scores = sequences
            .into_iter()
            .map(|(logits, units)| self.score(logits, units))
            .collect::<Result<Vec<_>, _>>()?;
        statistics.settle(&mut scores)?;
        Ok(scores)
    }
}
