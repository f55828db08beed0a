//! Observation windows.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::{at_least, odd};
use crate::tokens::{
    HeadScores, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens, TokenObservation, pooled,
};

/// How scores are smoothed along the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PoolKind {
    /// Mean, places outside the text counting as 0.
    #[default]
    Mean,
    /// Largest.
    Max,
}

/// How the rows of a window become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reduction {
    /// Mean.
    #[default]
    Mean,
    /// Sum: the same ranking, scores larger by the window.
    Sum,
}

/// Whose tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum QueryHeads {
    /// A key head's: scores are averaged over its query heads, after smoothing.
    #[default]
    Grouped,
    /// Each query head's own, as if keys were repeated for them: what the published code does, for as many times the memory.
    Separate,
}

/// Attention of the last queries to what comes before them (arXiv:2404.14469).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapKv {
    /// Queries of the observation window; their tokens always stay.
    pub window: usize,
    /// Places of the smoothing window, odd; 1 for none.
    pub kernel: usize,
    /// Smoothing.
    pub pool: PoolKind,
    /// Over the window's queries.
    pub reduce: Reduction,
    /// Over the query heads of a key head.
    pub heads: QueryHeads,
}

impl Settings for SnapKv {
    const KIND: &'static str = "snapkv";
}

impl Default for SnapKv {
    fn default() -> Self {
        Self {
            window: 64,
            kernel: 5,
            pool: PoolKind::default(),
            reduce: Reduction::default(),
            heads: QueryHeads::default(),
        }
    }
}

impl SnapKv {
    fn pool(&self) -> Pool {
        match (self.kernel, self.pool) {
            (1, _) => Pool::None,
            (size, PoolKind::Mean) => Pool::Mean(size),
            (size, PoolKind::Max) => Pool::Max(size),
        }
    }
}

impl ScoreTokens for SnapKv {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.window", self.window, 1)?;
        odd("score.kernel", self.kernel)
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: self.window, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: self.window }
    }

    fn separates_query_heads(&self) -> bool {
        self.heads == QueryHeads::Separate
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let queries = self.window.min(tokens);
        let score = ScoreExpr::leaf(ScoreLeaf::WindowAttention { queries, smoothing: self.pool() });
        let score = match self.reduce {
            Reduction::Sum => score.scaled(queries as f32),
            Reduction::Mean => score,
        };
        (self.heads == QueryHeads::Grouped).then(|| score.before_newest(queries))
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        if let Some(score) = self.expression(request, tokens) {
            return score.evaluate(seen);
        }
        // Query heads that keep tokens of their own.
        let (window, heads) = (self.window.min(tokens), seen.query_heads());
        let prefix = tokens - window;
        if prefix == 0 {
            return HeadScores::new(heads, tokens, vec![1.0; heads * tokens]);
        }
        let mut scores = pooled(&seen.window_mass_by_query(window)?, prefix, self.pool());
        if self.reduce == Reduction::Sum {
            scores.iter_mut().for_each(|s| *s *= window as f32);
        }
        with_tail(heads, tokens, &scores)
    }
}

/// Scores of a prefix (`[heads, prefix]`), the tokens after it above all of them by 1.
fn with_tail(heads: usize, tokens: usize, prefix: &[f32]) -> Result<HeadScores, ScoreError> {
    let prefix = HeadScores::new(heads, prefix.len() / heads.max(1), prefix.to_vec())?;
    let top = prefix.highest() + 1.0;
    let tail = tokens - prefix.tokens();
    let values =
        prefix.rows().flat_map(|r| r.iter().copied().chain(std::iter::repeat_n(top, tail))).collect();
    HeadScores::new(heads, tokens, values)
}
