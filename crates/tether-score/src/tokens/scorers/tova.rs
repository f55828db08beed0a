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
