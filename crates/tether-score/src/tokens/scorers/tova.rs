//! The last query's attention.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};
use tether_part::Settings;

use super::snapkv::with_tail;
use crate::ScoreError;
use crate::tokens::{HeadScores, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens, TokenObservation};

/// Attention of the last query, averaged over all heads, so that all keep the same tokens (arXiv:2401.06104).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tova {}

impl Settings for Tova {
    const KIND: &'static str = "tova";
}

impl ScoreTokens for Tova {
    fn needs(&self) -> Needs {
        Needs { last_queries: 1, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: 1 }
    }

    fn expression(&self, _: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let last = ScoreLeaf::WindowAttention { queries: 1, smoothing: Pool::None };
        (tokens > 1).then(|| ScoreExpr::HeadMean(Box::new(ScoreExpr::leaf(last))).before_newest(1))
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        if tokens <= 1 {
            return HeadScores::shared(seen.kv_heads(), &vec![1.0; tokens]);
        }
        let rows = seen.window_mass_by_query(1)?;
        let row = mean_of_rows(&rows, tokens - 1);
        with_tail(seen.kv_heads(), tokens, &row.repeat(seen.kv_heads()))
    }
}

/// The mean of all rows of `rows` (`[_, columns]`).
pub(in crate::tokens) fn mean_of_rows(rows: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0f64; columns];
    for row in rows.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
    }
    let count = (rows.len() / columns.max(1)).max(1) as f64;
    sums.into_iter().map(|s| (s / count) as f32).collect()
}
