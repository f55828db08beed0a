//! Keys unlike the others.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::{HeadScores, Needs, ScoreRequest, ScoreTokens, TokenObservation};

/// Minus the cosine between a key and the mean direction of all keys (arXiv:2504.15364).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDiff {}

impl Settings for KeyDiff {
    const KIND: &'static str = "keydiff";
}

impl ScoreTokens for KeyDiff {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let (keys, dim, tokens) = (seen.keys()?, seen.head_dim_k(), seen.tokens());
        let mut scores = Vec::with_capacity(seen.kv_heads() * tokens);
        for head in keys.chunks_exact((tokens * dim).max(1)) {
            let norms: Vec<f64> = head.chunks_exact(dim).map(norm).collect();
            let mut anchor = vec![0f64; dim];
            for (key, &norm) in head.chunks_exact(dim).zip(&norms) {
                anchor.iter_mut().zip(key).for_each(|(a, &x)| *a += f64::from(x) / norm.max(1e-12));
            }
            let length = anchor.iter().map(|a| a * a).sum::<f64>().sqrt().max(1e-12);
            scores.extend(head.chunks_exact(dim).zip(&norms).map(|(key, &norm)| {
                let dot: f64 = key.iter().zip(&anchor).map(|(&x, a)| f64::from(x) * a).sum();
                (-dot / (norm.max(1e-12) * length)) as f32
            }));
        }
        HeadScores::new(seen.kv_heads(), tokens, scores)
    }
}

/// Length of a vector.
pub(super) fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}
