//! What a scorer of frames is.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use tether_part::{AnySettings, HasKinds, Kinds, Part, Settings};

use crate::{BatchStatistics, GatedRecall, ScoreError, UnitScores};

/// What a scorer of frames knows of one sequence's candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameCandidates<'a> {
    /// Mean attention logits that the chunk's clean queries give them; empty for a scorer that needs none.
    pub logits: &'a [f32],
    /// Their indices in time, ascending.
    pub frames: &'a [u64],
}

/// A scorer of frames: settings and a pure function.
pub trait ScoreFrames: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for the first one out of range.
    fn validate(&self) -> Result<(), ScoreError> {
        Ok(())
    }

    /// True when it asks for the candidates' logits, for which a session waits.
    fn needs_logits(&self) -> bool {
        true
    }

    /// Scores every candidate; higher stays.
    ///
    /// # Errors
    /// [`ScoreError::NonFinite`] for a score that cannot be ranked, [`ScoreError::Count`] for lists of different lengths.
    fn score(&self, seen: FrameCandidates<'_>) -> Result<UnitScores, ScoreError>;

    /// As a part of a recipe.
    fn into_part(self) -> FrameScorer
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn ScoreFrames>::built_in();
        let kinds = built_in.with(Self::KIND, |settings, _| Ok(Arc::new(settings.read::<Self>()?)));
        Part::new(Arc::new(self), kinds)
    }
}

/// A scorer of frames, as a recipe holds it.
pub type FrameScorer = Part<dyn ScoreFrames>;

impl HasKinds for dyn ScoreFrames {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn ScoreFrames>> = LazyLock::new(|| {
            Kinds::<dyn ScoreFrames>::default()
                .with(GatedRecall::KIND, |settings, _| Ok(Arc::new(settings.read::<GatedRecall>()?)))
        });
        &KINDS
    }
}

impl dyn ScoreFrames {
    /// Scores all sequences of a batch.
    ///
    /// # Errors
    /// As [`ScoreFrames::score`]; [`ScoreError::Count`] for a scorer that does not score every candidate, and under
    /// [`BatchStatistics::Mixed`] when sequences have different numbers of candidates.
    pub fn score_batch<'a>(
        &self,
        sequences: impl IntoIterator<Item = FrameCandidates<'a>>,
        statistics: BatchStatistics,
    ) -> Result<Vec<UnitScores>, ScoreError> {
        let score = |seen: FrameCandidates<'_>| {
            let scores = self.score(seen)?;
            let (expected, got) = (seen.frames.len(), scores.score.len());
            if expected == got {
                Ok(scores)
            } else {
                Err(ScoreError::Count { what: "scores", expected, got })
            }
        };
        let mut scores = sequences.into_iter().map(score).collect::<Result<Vec<_>, _>>()?;
        statistics.settle(&mut scores)?;
        Ok(scores)
    }
}
