//! Selectors of frames: which candidates stay.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tether_part::{AnySettings, HasKinds, Kinds, Part, Settings};

use crate::ScoreError;
use crate::error::all_finite;

/// What a selector of frames chooses from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameChoice<'a> {
    /// Scores of the candidates; empty for a selector that needs none.
    pub scores: &'a [f32],
    /// The candidates' indices in time, ascending.
    pub frames: &'a [u64],
    /// How many of them stay, at most.
    pub kept: usize,
}

/// A selector of frames: settings and a pure function.
pub trait SelectFrames: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for the first one out of range.
    fn validate(&self) -> Result<(), ScoreError> {
        Ok(())
    }

    /// True when it chooses by scores. One that does not chooses from an archive when a chunk begins, before its queries exist.
    fn needs_scores(&self) -> bool {
        true
    }

    /// The candidates that stay, by their number in the list, ascending: `choice.kept` of them, or all where there are no more.
    ///
    /// # Errors
    /// [`ScoreError::NonFinite`] for a score that cannot be ranked.
    fn select(&self, choice: FrameChoice<'_>) -> Result<Vec<usize>, ScoreError>;

    /// As a part of a recipe.
    fn into_part(self) -> FrameSelector
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn SelectFrames>::built_in();
        let kinds = built_in.with(Self::KIND, |settings, _| Ok(Arc::new(settings.read::<Self>()?)));
        Part::new(Arc::new(self), kinds)
    }
}

/// A selector of frames, as a recipe holds it.
pub type FrameSelector = Part<dyn SelectFrames>;

impl HasKinds for dyn SelectFrames {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn SelectFrames>> = LazyLock::new(|| {
            Kinds::<dyn SelectFrames>::default()
                .with(TopK::KIND, |settings, _| Ok(Arc::new(settings.read::<TopK>()?)))
                .with(EvenlySpaced::KIND, |settings, _| Ok(Arc::new(settings.read::<EvenlySpaced>()?)))
        });
        &KINDS
    }
}

/// How the kept candidates are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Order {
    /// Oldest first, which is the order of candidates.
    #[default]
    Time,
}

/// The highest scores, see [`top_k`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopK {
    /// Order of the result.
    #[serde(default)]
    pub order: Order,
}

impl Settings for TopK {
    const KIND: &'static str = "top-k";
}

impl SelectFrames for TopK {
    fn select(&self, choice: FrameChoice<'_>) -> Result<Vec<usize>, ScoreError> {
        top_k(choice.scores, choice.kept)
    }
}

/// Evenly spaced candidates, whatever their scores, see [`evenly_spaced`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvenlySpaced {}

impl Settings for EvenlySpaced {
    const KIND: &'static str = "evenly-spaced";
}

impl SelectFrames for EvenlySpaced {
    fn needs_scores(&self) -> bool {
        false
    }

    fn select(&self, choice: FrameChoice<'_>) -> Result<Vec<usize>, ScoreError> {
        Ok(evenly_spaced(choice.frames.len(), choice.kept))
    }
}

/// Indices of the `k` highest `scores`, ascending. Equal scores: the lower index stays. All of them when there are no more than `k`.
///
/// # Errors
/// [`ScoreError::NonFinite`] for a score that is NaN or infinite.
pub fn top_k(scores: &[f32], k: usize) -> Result<Vec<usize>, ScoreError> {
    all_finite("score", scores)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    Ok(order)
}

/// `k` of `candidates` indices at equal distances, the first and the last included; halves round to the even index. All of them when
/// there are no more than `k`.
pub fn evenly_spaced(candidates: usize, k: usize) -> Vec<usize> {
    if candidates <= k {
        return (0..candidates).collect();
    }
    let step = if k > 1 { (candidates - 1) as f64 / (k - 1) as f64 } else { 0.0 };
    (0..k).map(|i| (i as f64 * step).round_ties_even() as usize).collect()
}
