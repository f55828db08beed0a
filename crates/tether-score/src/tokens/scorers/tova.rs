//! The last query's attention.

use serde::{Deserialize, Serialize};
use tether_core::{Pool, ScoreLeaf};
use tether_part::Settings;

use crate::tokens::{Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens};

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
        let queries = tokens.min(1);
        let last = ScoreExpr::leaf(ScoreLeaf::WindowAttention { queries, smoothing: Pool::None });
        Some(ScoreExpr::HeadMean(Box::new(last)).before_newest(queries))
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
