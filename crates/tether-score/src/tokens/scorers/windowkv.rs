//! Windows of tokens.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// What the text is asked for. The published method lets a classifier say; here the caller does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WindowTask {
    /// One place holds the answer: a window is worth its best half.
    #[default]
    QuestionAnswering,
    /// All of it matters: a window is worth its mean.
    Aggregation,
}

/// Attention of the suffix to windows of tokens before it, the same for all heads (arXiv:2503.17922).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowKv {
    /// Tokens of a window.
    pub window: usize,
    /// What the text is asked for.
    pub task: WindowTask,
    /// Last tokens, which are asked and stay; 32 for question answering and 16 for aggregation unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<usize>,
}

impl Settings for WindowKv {
    const KIND: &'static str = "windowkv";
}

impl Default for WindowKv {
    fn default() -> Self {
        Self { window: 8, task: WindowTask::default(), suffix: None }
    }
}

impl WindowKv {
    fn suffix(&self) -> usize {
        self.suffix.unwrap_or(match self.task {
            WindowTask::QuestionAnswering => 32,
            WindowTask::Aggregation => 16,
        })
    }

    /// Tokens of a window that say what it is worth.
    fn best(&self) -> usize {
        match self.task {
            WindowTask::QuestionAnswering => (self.window / 2).max(1),
            WindowTask::Aggregation => self.window,
        }
    }
}

impl ScoreTokens for WindowKv {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.window", self.window, 1)?;
        at_least("score.suffix", self.suffix(), 1)
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: self.suffix(), ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: self.suffix() }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let (queries, span) = (self.suffix().min(tokens), self.window);
        let worth = ScoreExpr::leaf(ScoreLeaf::SpanAttention { queries, span, best: self.best() });
        let worth = ScoreExpr::HeadMean(Box::new(worth));
        let of_tokens = ScoreExpr::Repeat { of: Box::new(worth), times: span, tokens: tokens - queries };
        // The published scores are sums over the suffix.
        Some(of_tokens.scaled(queries as f32).before_newest(queries))
    }
}
