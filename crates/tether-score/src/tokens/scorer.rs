//! What a scorer is, and the list of them.

use serde::{Deserialize, Serialize};

use super::scorers::*;
use super::{HeadScores, Needs, Protected, TokenObservation};
use crate::ScoreError;

/// Where and for how much a scorer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The layer.
    pub layer: usize,
    /// Tokens that each head will keep on average.
    pub kept: usize,
}

/// A scorer of tokens: settings and a pure function.
pub trait ScoreTokens {
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

    /// Scores every token of every head; higher stays.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] for what was not recorded, [`ScoreError::NonFiniteToken`] for a score that cannot be ranked.
    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError>;
}

macro_rules! scorers {
    ($($(#[doc = $doc:literal])* $name:literal $variant:ident($settings:ty),)*) => {
        /// A scorer of tokens, by its name in recipes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum TokenScorer {
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant($settings),)*
        }

        impl TokenScorer {
            fn part(&self) -> &dyn ScoreTokens {
                match self {
                    $(Self::$variant(settings) => settings,)*
                }
            }
        }
    };
}

scorers! {
    /// Attention of the last queries, smoothed along the tokens (arXiv:2404.14469).
    "snapkv" SnapKv(SnapKv),
    /// The first tokens and the last ones (arXiv:2309.17453).
    "streaming-llm" StreamingLlm(StreamingLlm),
    /// Attention of the last query over all heads (arXiv:2401.06104).
    "tova" Tova(Tova),
    /// Short keys (arXiv:2406.11430).
    "knorm" Knorm(Knorm),
    /// Attention summed over all queries (H2O, arXiv:2306.14048).
    "accumulated-attention" AccumulatedAttention(AccumulatedAttention),
    /// Keys unlike the others (arXiv:2504.15364).
    "keydiff" KeyDiff(KeyDiff),
    /// Attention expected from queries to come (arXiv:2510.00636).
    "expected-attention" ExpectedAttention(ExpectedAttention),
    /// Attention less what other keys say too (`FlowCache`, arXiv:2602.10825).
    "importance-redundancy" ImportanceRedundancy(ImportanceRedundancy),
    /// Blocks measured against the next one (arXiv:2504.04704).
    "lagkv" LagKv(LagKv),
    /// Attention first, then what a value does to the output (arXiv:2502.03805).
    "criticalkv" CriticalKv(CriticalKv),
    /// Windows of tokens by the attention of a suffix (`WindowKV`, arXiv:2503.17922).
    "windowkv" WindowKv(WindowKv),
    /// Attention of probe tokens at the positions to come (`DapQ`, arXiv:2603.11564).
    "dapq" DapQ(DapQ),
    /// Attention of queries sampled from the whole text (HACK, arXiv:2504.09261).
    "sampled-attention" SampledAttention(SampledAttention),
    /// Attention, spatial saliency and a gate for what later frames repeat (`ST-Lite`, arXiv:2603.00188).
    "st-lite" StLite(StLite),
    /// Likeness of blocks' mean keys to the mean query (`ReKV`, arXiv:2503.00540).
    "block-likeness" BlockLikeness(BlockLikeness),
    /// The largest logit that a page's keys can have (Quest, arXiv:2406.10774).
    "page-bounds" PageBounds(PageBounds),
    /// Mean logit of the last queries.
    "question-guided" QuestionGuided(QuestionGuided),
    /// Chance.
    "random" Random(RandomScore),
}

impl ScoreTokens for TokenScorer {
    fn validate(&self) -> Result<(), ScoreError> {
        self.part().validate()
    }

    fn needs(&self) -> Needs {
        self.part().needs()
    }

    fn protects(&self, kept: usize) -> Protected {
        self.part().protects(kept)
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        self.part().score(seen, request)
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
