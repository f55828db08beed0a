//! Windows of tokens.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

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

    /// What a window of one head is worth.
    fn worth(&self, weights: &[f32]) -> f64 {
        let mut weights = weights.to_vec();
        if self.task == WindowTask::QuestionAnswering {
            weights.sort_by(|a, b| b.total_cmp(a));
            weights.truncate((self.window / 2).max(1));
        }
        weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len().max(1) as f64
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

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        let suffix = self.suffix().min(tokens);
        let review = tokens - suffix;
        if review == 0 {
            return HeadScores::shared(seen.kv_heads(), &vec![1.0; tokens]);
        }
        let rows = seen.window_mass_by_query(suffix)?;
        let heads = (rows.len() / review) as f64;
        let mut scores = Vec::with_capacity(tokens);
        for start in (0..review).step_by(self.window) {
            let window = start..review.min(start + self.window);
            let worth: f64 = rows.chunks_exact(review).map(|row| self.worth(&row[window.clone()])).sum();
            // The published scores are sums over the suffix.
            let score = (worth / heads * suffix as f64) as f32;
            scores.extend(std::iter::repeat_n(score, window.len()));
        }
        super::snapkv::with_tail(seen.kv_heads(), tokens, &scores.repeat(seen.kv_heads()))
    }
}
