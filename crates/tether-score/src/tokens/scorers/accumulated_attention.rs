//! Attention summed over all queries.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use super::tova::mean_of_rows;
use crate::ScoreError;
use crate::tokens::attention::group_mean;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

/// Attention that a token has had from all queries so far, averaged over the query heads of a key head: H2O (arXiv:2306.14048), whose budget
/// is half heavy hitters and half the last tokens, and with `per_query` the observed attention of kvpress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccumulatedAttention {
    /// Divide by the number of queries that saw the token.
    pub per_query: bool,
    /// Share of the budget that is the last tokens.
    pub recent_share: f64,
    /// Average over all heads of the layer, so that all keep the same tokens, as Elastic Cache does (arXiv:2407.18121).
    pub shared: bool,
}

impl Settings for AccumulatedAttention {
    const KIND: &'static str = "accumulated-attention";
}

impl ScoreTokens for AccumulatedAttention {
    fn validate(&self) -> Result<(), ScoreError> {
        if (0.0..=1.0).contains(&self.recent_share) {
            return Ok(());
        }
        let (setting, value) = ("score.recent_share", self.recent_share as f32);
        Err(ScoreError::Setting { setting, value, requirement: "must lie in [0, 1]" })
    }

    fn needs(&self) -> Needs {
        Needs { accumulated_attention: true, ..Needs::default() }
    }

    fn protects(&self, kept: usize) -> Protected {
        Protected { sink: 0, recent: (kept as f64 * self.recent_share) as usize }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        let mut mass =
            group_mean(&seen.accumulated_attention()?, seen.kv_heads(), seen.query_heads(), tokens);
        if self.shared && tokens > 0 {
            mass = mean_of_rows(&mass, tokens).repeat(seen.kv_heads());
        }
        if self.per_query {
            for head in 0..seen.kv_heads() {
                let positions = seen.positions(head);
                let end = positions.last().map_or(0, |&p| i64::from(p) + 1);
                let row = &mut mass[head * tokens..][..tokens];
                row.iter_mut().zip(positions).for_each(|(m, &p)| *m /= (end - i64::from(p)).max(1) as f32);
            }
        }
        HeadScores::new(seen.kv_heads(), tokens, mass)
    }
}
