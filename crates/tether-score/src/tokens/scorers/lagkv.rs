//! Blocks, each measured against the next one.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

/// Keys and values of a block, in units of the next block's range of each channel: what spreads over the channels is worth keeping. Ranks
/// inside a block, so that every block keeps its share (arXiv:2504.04704).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagKv {
    /// Tokens of a block.
    pub lag: usize,
    /// First tokens, which stay.
    pub sink: usize,
}

impl Settings for LagKv {
    const KIND: &'static str = "lagkv";
}

impl Default for LagKv {
    fn default() -> Self {
        Self { lag: 128, sink: 4 }
    }
}

impl LagKv {
    /// Blocks that have a next one, in a text of `tokens`.
    fn scored_blocks(&self, tokens: usize) -> usize {
        (tokens.saturating_sub(self.sink) / self.lag).saturating_sub(1)
    }

    /// One side's scores of one head's blocks, `[blocks, lag]`.
    fn side(&self, rows: &[f32], dim: usize) -> Vec<f64> {
        let blocks: Vec<&[f32]> = rows.chunks_exact(self.lag * dim).collect();
        let mut scores = Vec::with_capacity(rows.len() / dim.max(1));
        for pair in blocks.windows(2) {
            let (own, next) = (pair[0], pair[1]);
            let mut low = next[..dim].to_vec();
            let mut high = low.clone();
            for row in next.chunks_exact(dim) {
                low.iter_mut().zip(row).for_each(|(l, &x)| *l = l.min(x));
                high.iter_mut().zip(row).for_each(|(h, &x)| *h = h.max(x));
            }
            let spreads: Vec<f64> = own
                .chunks_exact(dim)
                .map(|row| {
                    let scaled = |c: usize| {
                        let range = f64::from(high[c]) - f64::from(low[c]);
                        // A channel that does not vary says nothing.
                        if range > 0.0 { (f64::from(row[c]) - f64::from(low[c])) / range } else { 0.0 }
                    };
                    let mean = (0..dim).map(scaled).sum::<f64>() / dim as f64;
                    let squares = (0..dim).map(|c| (scaled(c) - mean).powi(2)).sum::<f64>();
                    (squares / (dim as f64 - 1.0).max(1.0)).sqrt()
                })
                .collect();
            let highest = spreads.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = spreads.iter().map(|s| (s - highest).exp()).sum();
            scores.extend(spreads.iter().map(|s| (s - highest).exp() / total));
        }
        scores
    }
}

impl ScoreTokens for LagKv {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.lag", self.lag, 2)
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: self.sink, recent: self.lag }
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let tokens = seen.tokens();
        let blocks = self.scored_blocks(tokens);
        let sink = self.sink.min(tokens);
        let (keys, values) = (seen.keys()?, seen.values()?);
        let mut scores = Vec::with_capacity(seen.kv_heads() * tokens);
        for head in 0..seen.kv_heads() {
            // One block more than is scored: the last one's measure.
            let span = if blocks == 0 { 0 } else { (blocks + 1) * self.lag };
            let side = |data: &[f32], dim: usize| {
                self.side(&data[head * tokens * dim..][sink * dim..(sink + span) * dim], dim)
            };
            let (k, v) = (side(&keys, seen.head_dim_k()), side(&values, seen.head_dim_v()));
            let both: Vec<f64> = k.iter().zip(&v).map(|(k, v)| (k + v) / 2.0).collect();
            scores.extend(std::iter::repeat_n(1.0, sink));
            for block in both.chunks_exact(self.lag) {
                if let Some(at) = block.iter().position(|x| !x.is_finite()) {
                    let (what, value) = ("the spread", block[at] as f32);
                    return Err(ScoreError::NonFiniteToken { what, head, token: at, value });
                }
                let mut order: Vec<usize> = (0..block.len()).collect();
                order.sort_by(|&a, &b| block[a].total_cmp(&block[b]));
                let mut ranks = vec![0f32; block.len()];
                order.iter().enumerate().for_each(|(rank, &at)| ranks[at] = rank as f32 / self.lag as f32);
                scores.extend(ranks);
            }
            scores.extend(std::iter::repeat_n(1.0, tokens - sink - blocks * self.lag));
        }
        HeadScores::new(seen.kv_heads(), tokens, scores)
    }
}
