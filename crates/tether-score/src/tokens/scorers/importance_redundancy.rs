//! What is attended to and not said twice.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::{at_least, odd};
use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

/// Attention of the last queries, less the likeness of a key to the others (`FlowCache`, arXiv:2602.10825): `importance * I - (1 - importance) * R`.
///
/// `I` is the attention of the last queries to the tokens before them alone, the largest logit of a key head's query heads standing for all, averaged over queries, then the largest of
/// `kernel` places. `R` is the softmax over tokens of the mean cosine of a token's key and the other keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportanceRedundancy {
    /// Queries that are asked; their tokens always stay.
    pub window: usize,
    /// Places of the smoothing by the largest, odd; 1 for none.
    pub kernel: usize,
    /// Weight of importance, 0 to 1; the rest is that of redundancy.
    pub importance: f32,
}

impl Settings for ImportanceRedundancy {
    const KIND: &'static str = "importance-redundancy";
}

impl Default for ImportanceRedundancy {
    fn default() -> Self {
        Self { window: 50, kernel: 7, importance: 0.07 }
    }
}

impl ScoreTokens for ImportanceRedundancy {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.window", self.window, 1)?;
        odd("score.kernel", self.kernel)?;
        if !(0.0..=1.0).contains(&self.importance) {
            let (setting, value) = ("score.importance", self.importance);
            return Err(ScoreError::Setting { setting, value, requirement: "must be 0 to 1" });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: self.window, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: self.window }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let queries = self.window.min(tokens);
        let over = if self.kernel == 1 { Pool::None } else { Pool::Max(self.kernel) };
        let attention = ScoreExpr::leaf(ScoreLeaf::LargestAttention { queries });
        let attention = ScoreExpr::Smooth { of: Box::new(attention), over };
        let likeness = ScoreExpr::leaf(ScoreLeaf::KeyRedundancy { newest: queries });
        let redundancy = ScoreExpr::Softmax(Box::new(likeness));
        let both = vec![attention.scaled(self.importance), redundancy.scaled(self.importance - 1.0)];
        Some(ScoreExpr::Add(both).before_newest(queries))
    }
}
