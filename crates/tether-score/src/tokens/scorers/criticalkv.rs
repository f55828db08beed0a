//! Two stages: attention first, then what the value does to the output.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tether_dense::{MatRef, matmul};
use tether_part::{Kinds, PartError, Settings, SettingsTable};

use super::SnapKv;
use crate::ScoreError;
use crate::tokens::attention::{group, group_mean};
use crate::tokens::selectors::best;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation, TokenScorer};

/// Half of the budget goes to the highest base scores; the rest to the highest `(score + epsilon) * |W_o v|_1`, averaged over the query
/// heads of a key head (arXiv:2502.03805).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticalKv {
    /// The scorer of the first stage.
    pub base: TokenScorer,
    /// Share of the budget that the first stage fills.
    pub first_stage: f64,
    /// Added to base scores before they are multiplied.
    pub epsilon: f32,
}

impl Settings for CriticalKv {
    const KIND: &'static str = "criticalkv";
}

impl Default for CriticalKv {
    fn default() -> Self {
        Self { base: SnapKv::default().into_part(), first_stage: 0.5, epsilon: 1e-4 }
    }
}

impl ScoreTokens for CriticalKv {
    fn validate(&self) -> Result<(), ScoreError> {
        self.base.validate()?;
        if self.base.separates_query_heads() {
            let requirement = "its scores are of key heads, so heads must be \"grouped\"";
            return Err(ScoreError::Nested { part: "score.base", requirement });
        }
        if !(0.0..=1.0).contains(&self.first_stage) {
            let (setting, value) = ("score.first_stage", self.first_stage as f32);
            return Err(ScoreError::Setting { setting, value, requirement: "must lie in [0, 1]" });
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            let requirement = "must be finite and at least 0";
            return Err(ScoreError::Setting { setting: "score.epsilon", value: self.epsilon, requirement });
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        self.base.needs().and(Needs { output_projection: true, ..Needs::default() })
    }

    fn protects(&self, kept: usize) -> Protected {
        self.base.protects(kept)
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let base = self.base.score(seen, request)?;
        let norms = projected_norms(seen)?;
        if base.heads() != seen.kv_heads() {
            let (expected, got) = (seen.kv_heads(), base.heads());
            return Err(ScoreError::Count { what: "heads of the base scores", expected, got });
        }
        let tokens = base.tokens();
        let first = (request.kept as f64 * self.first_stage) as usize;
        let mut scores: Vec<f32> =
            base.values().iter().zip(&norms).map(|(s, n)| (s + self.epsilon) * n).collect();
        for (head, row) in scores.chunks_exact_mut(tokens.max(1)).enumerate() {
            // The base's own protection must hold here too: it may protect more than ties would.
            let protected = self.base.protects(request.kept);
            best(base.head(head), first, protected).iter().for_each(|&t| row[t as usize] = f32::MAX);
        }
        HeadScores::new(seen.kv_heads(), tokens, scores)
    }

    fn read(mut settings: SettingsTable, kinds: &Kinds<dyn ScoreTokens>) -> Result<Self, PartError> {
        let base = settings.take_part("base", kinds)?;
        let own: Self = settings.read()?;
        Ok(Self { base: base.unwrap_or(own.base), ..own })
    }
}

/// `|W_o v|_1` of every token, averaged over the query heads of a key head: `[kv_heads, tokens]`.
fn projected_norms(seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, heads) = (seen.tokens(), seen.head_dim_v(), seen.query_heads());
    let group = group(seen)?;
    let (values, weights) = (seen.values()?, seen.output_projection()?);
    let inner = heads * dim;
    let hidden = weights.len() / inner.max(1);
    let mut norms = vec![0f32; heads * tokens];
    norms.par_chunks_exact_mut(tokens.max(1)).enumerate().for_each(|(head, norms)| {
        let values = &values[head / group * tokens * dim..][..tokens * dim];
        let weights = MatRef::row_major(&weights[head * dim..], hidden, dim, inner).transposed();
        const BLOCK: usize = 64;
        let mut projected = vec![0f32; BLOCK * hidden];
        for (norms, values) in norms.chunks_mut(BLOCK).zip(values.chunks(BLOCK * dim)) {
            let rows = norms.len();
            matmul(&mut projected, hidden, 0.0, MatRef::row_major(values, rows, dim, dim), weights);
            for (norm, row) in norms.iter_mut().zip(projected.chunks_exact(hidden.max(1))) {
                *norm = row.iter().map(|&x| f64::from(x.abs())).sum::<f64>() as f32;
            }
        }
    });
    Ok(group_mean(&norms, seen.kv_heads(), heads, tokens))
}
