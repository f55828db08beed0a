//! What a scorer is, and which there are.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tether_part::{AnySettings, HasKinds, Kinds, Part, PartError, Settings, SettingsTable};

use super::scorers::*;
use super::{HeadScores, Needs, Protected, ScoreExpr, TokenObservation};
use crate::ScoreError;

/// Where and for how much a scorer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The layer.
    pub layer: usize,
    /// Tokens that each head will keep on average.
    pub kept: usize,
}

/// A scorer of tokens: settings and a pure function.
pub trait ScoreTokens: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for the first one out of range.
    fn validate(&self) -> Result<(), ScoreError> {
        Ok(())
    }

    /// What must be recorded.
    fn needs(&self) -> Needs;

    /// Tokens at either end that the method keeps whatever their scores, when a head keeps `kept`.
    fn protects(&self, _kept: usize) -> Protected {
        Protected::default()
    }

    /// True when it scores for each query head, which then keeps tokens of its own, and not for each key head.
    fn separates_query_heads(&self) -> bool {
        false
    }

    /// Tokens of a page, for a scorer whose scores are the bounds of pages by the last query and nothing else
    /// ([`PageBounds`]): a device may choose by them.
    fn page_bounds(&self) -> Option<usize> {
        None
    }

    /// The score of heads of `tokens` tokens as data, which a device works out without keys leaving it. `None` for a score that is worked out by
    /// [`ScoreTokens::score`] alone, on the host, from what it asks an observation.
    fn expression(&self, _request: ScoreRequest, _tokens: usize) -> Option<ScoreExpr> {
        None
    }

    /// Scores every token of every head; higher stays. A scorer that has an expression need not say it twice.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] for what was not recorded, [`ScoreError::NonFiniteToken`] for a score that cannot be ranked.
    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let none = ScoreError::Missing { what: "a score, or an expression of one" };
        self.expression(request, seen.tokens()).ok_or(none)?.evaluate(seen)
    }

    /// Reads the settings. A scorer that holds others takes those out first, to be read among `kinds`.
    ///
    /// # Errors
    /// Whatever the settings cannot be read from.
    fn read(settings: SettingsTable, _kinds: &Kinds<dyn ScoreTokens>) -> Result<Self, PartError>
    where
        Self: Sized + DeserializeOwned,
    {
        settings.read()
    }

    /// As a part of a recipe.
    fn into_part(self) -> TokenScorer
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn ScoreTokens>::built_in();
        let read = |settings, kinds: &Kinds<_>| -> Result<Arc<dyn ScoreTokens>, _> {
            Ok(Arc::new(Self::read(settings, kinds)?))
        };
        Part::new(Arc::new(self), built_in.with(Self::KIND, read))
    }
}

/// A scorer of tokens, as a recipe holds it.
pub type TokenScorer = Part<dyn ScoreTokens>;

impl HasKinds for dyn ScoreTokens {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn ScoreTokens>> = LazyLock::new(|| {
            let mut all: Kinds<dyn ScoreTokens> = Kinds::default();
            macro_rules! add {
                ($($scorer:ty),*) => {
                    $(all = all.with(<$scorer>::KIND, |settings, kinds| {
                        Ok(Arc::new(<$scorer as ScoreTokens>::read(settings, kinds)?))
                    });)*
                };
            }
            add!(SnapKv, StreamingLlm, Tova, Knorm, AccumulatedAttention, KeyDiff, ExpectedAttention);
            add!(ImportanceRedundancy, LagKv, CriticalKv, WindowKv, DapQ, SampledAttention, StLite);
            add!(BlockLikeness, PageBounds, QuestionGuided, RandomScore);
            all
        });
        &KINDS
    }
}

/// A smoothing window has a middle.
pub(super) fn odd(setting: &'static str, value: usize) -> Result<(), ScoreError> {
    if value.is_multiple_of(2) {
        return Err(ScoreError::Setting { setting, value: value as f32, requirement: "must be odd" });
    }
    Ok(())
}

pub(super) fn at_least(setting: &'static str, value: usize, least: usize) -> Result<(), ScoreError> {
    let requirement = match least {
        1 => "must be at least 1",
        2 => "must be at least 2",
        _ => "is too small",
    };
    if value >= least {
        Ok(())
    } else {
        Err(ScoreError::Setting { setting, value: value as f32, requirement })
    }
}
