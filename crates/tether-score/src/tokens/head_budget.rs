//! How the heads of a layer share a budget.

use serde::{Deserialize, Serialize};

use super::{HeadProfile, Protected};
use crate::ScoreError;

/// How the heads of a layer share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum HeadBudget {
    /// Equally.
    Uniform {},
    /// By score: a layer's tokens compete across its heads, each of which keeps at least a share of the mean (`AdaKV`, arXiv:2407.11550).
    Adaptive {
        /// The share.
        safeguard: f64,
    },
    /// Retrieval heads keep everything, the others sinks and the last tokens (`RazorAttention`, arXiv:2407.15891). Needs a head profile. Without
    /// a ratio or a number of tokens the others keep `max(least, tokens / divisor)` and the sinks; with one they keep what it leaves them, and
    /// where it leaves them nothing there are fewer retrieval heads.
    Razor {
        /// Share of the model's heads that are protected for induction.
        induction: f64,
        /// Share of the model's heads that are protected for echo.
        echo: f64,
        /// Last tokens that the other heads keep at least.
        least: usize,
        /// Part of the text that they keep.
        divisor: usize,
    },
    /// Contextual heads keep little, structural ones the rest of the budget, of which the first two frames and the last one (HACK,
    /// arXiv:2504.09261) where there are frames and all heads hold the same tokens of them. Needs a head profile with variances.
    Hack {
        /// Share of the model's heads that are contextual.
        contextual: f64,
        /// What a contextual head keeps, as a share of the mean.
        share: f64,
    },
}

impl Default for HeadBudget {
    fn default() -> Self {
        Self::Uniform {}
    }
}

/// What one head keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShare {
    /// Tokens.
    pub kept: usize,
    /// Tokens at either end that are among them whatever their scores.
    pub protected: Protected,
    /// What leaves this head may be merged into what stays.
    pub merges: bool,
}

/// What the heads of a layer keep.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadShares {
    /// A number each.
    Each(Vec<HeadShare>),
    /// A number together, by score.
    Together {
        /// Tokens of a head, on average.
        kept: usize,
        /// Tokens of a head, at least.
        least: usize,
        /// Tokens at either end that every head keeps.
        protected: Protected,
    },
}

impl HeadShares {
    /// True when nothing leaves heads of `lengths` tokens.
    pub fn keep_all(&self, lengths: &[usize]) -> bool {
        match self {
            Self::Each(shares) => shares.iter().zip(lengths).all(|(s, &len)| s.kept >= len),
            Self::Together { kept, .. } => kept * lengths.len() >= lengths.iter().sum(),
        }
    }
}

/// What is to be shared.
#[derive(Clone, Copy, Debug)]
pub struct ShareRequest<'a> {
    /// The layer.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Tokens that the longest head has.
    pub tokens: usize,
    /// Tokens that the sequence has had.
    pub seen: usize,
    /// Tokens that a head keeps on average, which may be more than it has; `None` when the budget does not say.
    pub kept: Option<usize>,
    /// Tokens at either end that stay.
    pub protected: Protected,
    /// First tokens of the first frame, of the first two, and last tokens of the last frame, where the text has frames.
    pub frames: Option<[usize; 3]>,
    /// The model's heads.
    pub profile: Option<&'a HeadProfile>,
}

impl HeadBudget {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ScoreError::Setting`].
    pub fn validate(&self) -> Result<(), ScoreError> {
        let shares: &[(&'static str, f64)] = match self {
            Self::Uniform {} => &[],
            Self::Adaptive { safeguard } => &[("budget.heads.safeguard", *safeguard)],
            Self::Razor { induction, echo, divisor, .. } => {
                crate::tokens::scorer::at_least("budget.heads.divisor", *divisor, 1)?;
                &[("budget.heads.induction", *induction), ("budget.heads.echo", *echo)]
            }
            Self::Hack { contextual, share } => {
                &[("budget.heads.contextual", *contextual), ("budget.heads.share", *share)]
            }
        };
        match shares.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some(&(setting, value)) => {
                let requirement = "must lie in [0, 1]";
                Err(ScoreError::Setting { setting, value: value as f32, requirement })
            }
            None => Ok(()),
        }
    }

    /// True when it needs a head profile.
    pub fn needs_profile(&self) -> bool {
        matches!(self, Self::Razor { .. } | Self::Hack { .. })
    }

    /// Shares `request` among the heads.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] without the head profile that is needed, and those of [`HeadProfile::check`].
    pub fn shares(&self, request: ShareRequest<'_>) -> Result<HeadShares, ScoreError> {
        let ShareRequest { layer, layers, heads, tokens, protected, .. } = request;
        // Shares are of the budget, which a head that has been cut already may not fill.
        let budget = request.kept.unwrap_or(tokens);
        let kept = budget.min(tokens);
        let profile = || -> Result<&HeadProfile, ScoreError> {
            let profile = request.profile.ok_or(ScoreError::Missing { what: "a head profile" })?;
            profile.check(layers, heads)?;
            Ok(profile)
        };
        match *self {
            Self::Uniform {} => {
                Ok(HeadShares::Each(vec![HeadShare { kept, protected, merges: true }; heads]))
            }
            Self::Adaptive { safeguard } => {
                let least = (kept as f64 * safeguard) as usize;
                Ok(HeadShares::Together { kept, least, protected })
            }
            Self::Razor { induction, echo, least, divisor } => {
                let mut retrieval = profile()?.retrieval_heads(induction, echo);
                let others = match request.kept {
                    None => protected.sink + least.max(request.seen / divisor),
                    Some(_) => {
                        let (all, total) = (layers * heads, layers * heads * budget);
                        // A head that is left with fewer than its sinks and a few more is of no use.
                        let floor = (protected.sink + 16).min(budget);
                        while retrieval.len() * request.seen + (all - retrieval.len()) * floor > total {
                            if retrieval.pop().is_none() {
                                break;
                            }
                        }
                        let rest = all - retrieval.len();
                        total
                            .saturating_sub(retrieval.len() * request.seen)
                            .checked_div(rest)
                            .unwrap_or(tokens)
                    }
                };
                let share = |head| {
                    let kept = if retrieval.contains(&(layer, head)) { tokens } else { others.min(tokens) };
                    let recent = kept.saturating_sub(protected.sink);
                    HeadShare { kept, protected: Protected { sink: protected.sink, recent }, merges: true }
                };
                Ok(HeadShares::Each((0..heads).map(share).collect()))
            }
            Self::Hack { contextual, share } => {
                let profile = profile()?;
                let contextual = profile.contextual_heads(contextual)?;
                let (all, few) = (layers * heads, contextual.len());
                let little = if few == all { budget } else { (budget as f64 * share) as usize };
                let rest = (all * budget - few * little) / (all - few).max(1);
                let share = |head| {
                    if contextual.contains(&(layer, head)) {
                        return HeadShare { kept: little.min(tokens), protected, merges: true };
                    }
                    let kept = rest.min(tokens);
                    let [one, two, last] = request.frames.unwrap_or_default();
                    // The last frame before the second, but never instead of the first.
                    let sink =
                        if two + last <= kept { two } else { (kept.saturating_sub(last)).max(one).min(two) };
                    let frames = Protected { sink, recent: last };
                    HeadShare { kept, protected: protected.or(frames), merges: false }
                };
                Ok(HeadShares::Each((0..heads).map(share).collect()))
            }
        }
    }
}
