//! Mean logits of a question.

use serde::{Deserialize, Serialize};
use tether_core::ScoreLeaf;
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// Mean logit that the last queries give a key, over them and over the query heads of a key head: the guide of `QViC-MF`. A mean of inner products
/// is the inner product of the mean, so no logit of a single query is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuestionGuided {
    /// Last tokens: the question, which stays.
    pub question: usize,
}

impl Settings for QuestionGuided {
    const KIND: &'static str = "question-guided";
}

impl Default for QuestionGuided {
    fn default() -> Self {
        Self { question: 32 }
    }
}

impl ScoreTokens for QuestionGuided {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.question", self.question, 1)
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: self.question, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: self.question }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        Some(ScoreExpr::leaf(ScoreLeaf::MeanLogit { queries: self.question.min(tokens) }))
    }
}

/// The mean of rows of `dim` numbers.
pub(in crate::tokens) fn mean_row(rows: &[f32], dim: usize) -> Vec<f64> {
    let count = (rows.len() / dim).max(1) as f64;
    let mut mean = vec![0f64; dim];
    for row in rows.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / count);
    }
    mean
}
