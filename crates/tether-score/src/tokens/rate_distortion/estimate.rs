//! What each tier costs the attention output, estimated from the last queries.

use tether_dense::{MatRef, matmul, softmax_rows};

use crate::ScoreError;

/// What a tier does to keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TierError {
    /// The token is not there.
    Dropped,
    /// Keys and values are coded: mean squared error of a coordinate for each unit of its variance about the mean (`SphericalBits::distortion`). 0 is as they are.
    Coded(f64),
}

/// One key head as its last queries see it. All arrays are row-major.
#[derive(Clone, Copy, Debug)]
pub struct RateWindow<'a> {
    /// Queries of the last `window` tokens, `[group, window, head_dim_k]`, all of those heads that share the key head.
    pub q: &'a [f32],
    /// Query heads.
    pub group: usize,
    /// Keys, `[tokens, head_dim_k]`; the last `window` are the queries' own.
    pub k: &'a [f32],
    /// Values, `[tokens, head_dim_v]`.
    pub v: &'a [f32],
    /// What codes of keys are relative to, `[head_dim_k]`.
    pub k_mean: &'a [f32],
    /// What codes of values are relative to, `[head_dim_v]`.
    pub v_mean: &'a [f32],
    /// Multiplies `q.k`.
    pub scale: f32,
}

/// Share of the mean squared attention that every token is taken to have: a window is a small sample of the queries to come.
const FLOOR: f64 = 0.05;

impl RateWindow<'_> {
    /// Distortion of each token in each tier, `[tokens, tiers]`: the expected squared change of an attention output, to first order.
    ///
    /// With `p` a query's attention to token `i`, `o` its output: noise `e` on the logit changes the output by `p e (v - o)`, noise `n` on the value by `p n`, and dropping the
    /// token by `p / (1 - p) (o - v)`. A key coded with relative error `h` has logit noise of variance `s2 = h |q|^2 |k - mean|^2 scale^2 / head_dim`.
    ///
    /// # Errors
    /// [`ScoreError::Count`] for arrays that do not fit each other, [`ScoreError::NonFinite`].
    pub fn distortion(&self, tiers: &[TierError]) -> Result<Vec<f32>, ScoreError> {
        let (dk, dv) = (self.k_mean.len(), self.v_mean.len());
        let tokens = self.k.len() / dk.max(1);
        let window = self.q.len() / (self.group * dk).max(1);
        for (what, expected, got) in [
            ("elements of q", self.group * window * dk, self.q.len()),
            ("elements of k", tokens * dk, self.k.len()),
            ("elements of v", tokens * dv, self.v.len()),
        ] {
            if expected != got {
                return Err(ScoreError::Count { what, expected, got });
            }
        }
        if window > tokens || window == 0 {
            return Err(ScoreError::Count { what: "tokens of the window", expected: tokens, got: window });
        }
        for (what, x) in [("queries", self.q), ("keys", self.k), ("values", self.v)] {
            crate::error::all_finite(what, x)?;
        }
        let rows = self.group * window;
        let (mut squares, mut odds, mut means) = (vec![0f64; tokens], vec![0f64; tokens], vec![0f64; tokens]);
        let energy = self.q.iter().map(|q| f64::from(*q).powi(2)).sum::<f64>() / rows as f64;
        let scaled: Vec<f32> = self.q.iter().map(|q| q * self.scale).collect();
        let mut weights = vec![0f32; rows * tokens];
        let keys = MatRef::row_major(self.k, tokens, dk, dk);
        matmul(&mut weights, tokens, 0.0, MatRef::row_major(&scaled, rows, dk, dk), keys.transposed());
        for (row, weights) in weights.chunks_exact_mut(tokens).enumerate() {
            let seen = tokens - window + row % window + 1;
            softmax_rows(&mut weights[..seen], seen);
            for (token, weight) in weights[..seen].iter().enumerate() {
                let p = f64::from(*weight);
                means[token] += p / rows as f64;
                squares[token] += p * p / rows as f64;
                // A token that has everything cannot be done without; its odds would be infinite.
                odds[token] += (p / (1.0 - p).max(1e-3)).powi(2) / rows as f64;
            }
        }
        // The mean output is the mean attention's.
        let mut output = vec![0f64; dv];
        for (p, v) in means.iter().zip(self.v.chunks_exact(dv)) {
            output.iter_mut().zip(v).for_each(|(o, v)| *o += p * f64::from(*v));
        }
        let floor = FLOOR * squares.iter().sum::<f64>() / tokens as f64;
        let mut out = Vec::with_capacity(tokens * tiers.len());
        let noise = energy * f64::from(self.scale).powi(2) / dk as f64;
        for token in 0..tokens {
            let distance = |x: &[f32], from: &dyn Fn(usize) -> f64| -> f64 {
                x.iter().enumerate().map(|(c, x)| (f64::from(*x) - from(c)).powi(2)).sum()
            };
            let (k, v) = (&self.k[token * dk..][..dk], &self.v[token * dv..][..dv]);
            let key = distance(k, &|c| f64::from(self.k_mean[c]));
            let value = distance(v, &|c| f64::from(self.v_mean[c]));
            let apart = distance(v, &|c| output[c]);
            out.extend(tiers.iter().map(|tier| match *tier {
                TierError::Dropped => ((odds[token] + floor) * apart) as f32,
                TierError::Coded(error) => {
                    let logit = (error * noise * key).min(1.0);
                    ((squares[token] + floor) * (logit * apart + error * value)) as f32
                }
            }));
        }
        Ok(out)
    }
}

/// Distortion of each token in each tier from any scorer's importance, `[tokens, tiers]`: all of it when dropped, a tier's share of it when coded.
///
/// # Errors
/// [`ScoreError::NonFinite`] for a score that is not finite or negative.
pub fn distortion_of_scores(scores: &[f32], tiers: &[TierError]) -> Result<Vec<f32>, ScoreError> {
    if let Some(candidate) = scores.iter().position(|s| !(*s >= 0.0 && s.is_finite())) {
        return Err(ScoreError::NonFinite { what: "importance", candidate, value: scores[candidate] });
    }
    let share = |tier: &TierError| match *tier {
        TierError::Dropped => 1.0,
        TierError::Coded(error) => error as f32,
    };
    Ok(scores.iter().flat_map(|score| tiers.iter().map(move |tier| score * share(tier))).collect())
}
