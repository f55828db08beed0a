//! What a selector is: from scores to the tokens that stay.

use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use tether_part::{AnySettings, HasKinds, Kinds, Part, Settings};

use super::selectors::{Blocks, Chunks, ElasticOfficial, Pages, TopK, Windows, across_heads};
use super::{HeadScores, HeadShare, HeadShares, KeptIndices, Protected};
use crate::ScoreError;

/// Spans of consecutive tokens, the last of which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreSpans {
    /// Tokens before the first span.
    pub first: usize,
    /// Tokens of a span.
    pub size: usize,
    /// Tokens before which the last span ends.
    pub end: usize,
}

/// Whose tokens a selector chooses at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectScope {
    /// A head's.
    #[default]
    Head,
    /// A head's, by nothing but their scores, so that tokens of different heads may compete for one share.
    Joint,
    /// Those of all heads, which keep the same ones.
    Shared,
}

/// A selector of tokens: settings and a pure function.
pub trait SelectTokens: AnySettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for the first one out of range.
    fn validate(&self) -> Result<(), ScoreError> {
        Ok(())
    }

    /// Whose tokens are chosen at a time.
    fn scope(&self) -> SelectScope {
        SelectScope::Head
    }

    /// True for a selector that keeps the protected tokens and the highest scores beside them, of equal ones the earlier, and does nothing else: what a device can do where the
    /// scores are.
    fn keeps_highest(&self) -> bool {
        false
    }

    /// Tokens of a page, for a selector that keeps whole pages, those with protected tokens first and then those with
    /// the highest scores, as long as they fit, and nothing else.
    fn whole_pages(&self) -> Option<usize> {
        None
    }

    /// Spans of tokens whose mean scores over all heads are all that it looks at, where there are such: a device adds them up where the scores are. What it chooses of heads that hold
    /// `tokens` depends on nothing else then but the share.
    fn spans(&self, _share: HeadShare, _tokens: usize) -> Option<ScoreSpans> {
        None
    }

    /// Tokens that it keeps of `tokens` where the budget does not say.
    fn tokens(&self, _protected: Protected, _tokens: usize) -> Option<usize> {
        None
    }

    /// The tokens that stay, in any order, at most `share.kept` of them. `rows` are the scores of one head, of all heads under
    /// [`SelectScope::Shared`]. Protected tokens stay whether they are named or not, and count.
    ///
    /// # Errors
    /// Whatever a selector cannot choose from.
    fn choose(&self, rows: &[&[f32]], share: HeadShare) -> Result<Vec<u32>, ScoreError>;

    /// As a part of a recipe.
    fn into_part(self) -> TokenSelector
    where
        Self: Sized + Settings + DeserializeOwned,
    {
        let built_in = <dyn SelectTokens>::built_in();
        let kinds = built_in.with(Self::KIND, |settings, _| Ok(Arc::new(settings.read::<Self>()?)));
        Part::new(Arc::new(self), kinds)
    }
}

/// A selector of tokens, as a recipe holds it.
pub type TokenSelector = Part<dyn SelectTokens>;

impl HasKinds for dyn SelectTokens {
    fn built_in() -> &'static Kinds<Self> {
        static KINDS: LazyLock<Kinds<dyn SelectTokens>> = LazyLock::new(|| {
            let mut all: Kinds<dyn SelectTokens> = Kinds::default();
            macro_rules! add {
                ($($selector:ty),*) => {
                    $(all = all.with(<$selector>::KIND, |settings, _| {
                        Ok(Arc::new(settings.read::<$selector>()?))
                    });)*
                };
            }
            add!(TopK, Pages, Chunks, Windows, Blocks, ElasticOfficial);
            all
        });
        &KINDS
    }
}

impl dyn SelectTokens {
    /// True when all heads keep the same tokens, and so equally many.
    pub fn is_shared(&self) -> bool {
        self.scope() == SelectScope::Shared
    }

    /// True when tokens of different heads may compete for one share.
    pub fn is_joint(&self) -> bool {
        self.scope() == SelectScope::Joint
    }

    /// What stays: no head keeps more than its share, and the protected tokens are among it. Equal scores: the earlier token stays.
    ///
    /// # Errors
    /// [`ScoreError::Setting`]; [`ScoreError::Count`] when there are not as many shares as heads, when heads must agree and have shares that
    /// differ, and for a selector that keeps more than a share or what there is not.
    pub fn select(&self, scores: &HeadScores, shares: &HeadShares) -> Result<KeptIndices, ScoreError> {
        self.validate()?;
        let heads = scores.heads();
        let rows: Vec<&[f32]> = scores.rows().collect();
        let shares = match shares {
            HeadShares::Each(shares) if shares.len() == heads => shares,
            HeadShares::Each(shares) => {
                return Err(ScoreError::Count { what: "shares", expected: heads, got: shares.len() });
            }
            HeadShares::Together { .. } if self.is_joint() => return self.each_or_together(&rows, shares),
            HeadShares::Together { .. } => {
                return Err(ScoreError::Count { what: "shares", expected: heads, got: 1 });
            }
        };
        if !self.is_shared() {
            return self.each(&rows, shares);
        }
        let Some(&first) = shares.first() else { return Ok(KeptIndices::default()) };
        if let Some(other) = shares.iter().find(|s| **s != first) {
            return Err(ScoreError::Count {
                what: "tokens of every head",
                expected: first.kept,
                got: other.kept,
            });
        }
        let tokens = scores.tokens();
        let share = HeadShare { kept: first.kept.min(tokens), ..first };
        Ok(KeptIndices::shared(heads, held(self.choose(&rows, share)?, share, tokens)?))
    }

    /// `select` for heads that hold different numbers of tokens: scores of one head each.
    ///
    /// # Errors
    /// [`ScoreError::Count`] for a selector that keeps the same tokens in all heads, for scores of more than one head, when there are not
    /// as many shares as heads, and for a selector that keeps more than a share or what there is not.
    pub fn select_ragged(
        &self,
        scores: &[HeadScores],
        shares: &HeadShares,
    ) -> Result<KeptIndices, ScoreError> {
        self.validate()?;
        let count = |what, expected, got| Err(ScoreError::Count { what, expected, got });
        if self.is_shared() {
            return count("different lengths of heads that keep the same tokens", 0, scores.len());
        }
        if let Some(other) = scores.iter().find(|s| s.heads() != 1) {
            return count("heads of a head's scores", 1, other.heads());
        }
        if let HeadShares::Each(shares) = shares
            && shares.len() != scores.len()
        {
            return count("shares", scores.len(), shares.len());
        }
        if matches!(shares, HeadShares::Together { .. }) && !self.is_joint() {
            return count("shares", scores.len(), 1);
        }
        let rows: Vec<&[f32]> = scores.iter().map(HeadScores::values).collect();
        self.each_or_together(&rows, shares)
    }

    /// The best of each row, or of all rows together.
    fn each_or_together(&self, rows: &[&[f32]], shares: &HeadShares) -> Result<KeptIndices, ScoreError> {
        match shares {
            HeadShares::Each(shares) => self.each(rows, shares),
            &HeadShares::Together { kept, least, protected } => {
                Ok(KeptIndices::new(across_heads(rows, kept, least, protected)))
            }
        }
    }

    fn each(&self, rows: &[&[f32]], shares: &[HeadShare]) -> Result<KeptIndices, ScoreError> {
        let of_head = |(row, &share): (&&[f32], &HeadShare)| {
            held(self.choose(std::slice::from_ref(row), share)?, share, row.len())
        };
        Ok(KeptIndices::new(rows.iter().zip(shares).map(of_head).collect::<Result<_, _>>()?))
    }
}

/// What a selector chose of `tokens` tokens, with the protected ones: that they stay is not for a selector to decide, and neither is how many do.
fn held(mut set: Vec<u32>, share: HeadShare, tokens: usize) -> Result<Vec<u32>, ScoreError> {
    let kept = share.kept.min(tokens);
    let protected = share.protected.within(kept, tokens);
    set.sort_unstable();
    set.dedup();
    if let Some(&last) = set.last().filter(|&&last| last as usize >= tokens) {
        let what = "tokens that a [select] part chooses from";
        return Err(ScoreError::Count { what, expected: tokens, got: last as usize + 1 });
    }
    let (sink, recent) = (0..protected.sink as u32, (tokens - protected.recent) as u32..tokens as u32);
    let start_stays = set.iter().copied().take(protected.sink).eq(sink.clone());
    let end_stays = set.iter().rev().copied().take(protected.recent).eq(recent.clone().rev());
    if !(start_stays && end_stays) {
        set.extend(sink.chain(recent));
        set.sort_unstable();
        set.dedup();
    }
    if set.len() > kept {
        let what = "tokens that a [select] part keeps of a head, protected ones included";
        return Err(ScoreError::Count { what, expected: kept, got: set.len() });
    }
    Ok(set)
}
