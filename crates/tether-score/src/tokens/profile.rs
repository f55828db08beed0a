//! What the heads of a model are for, as a file.

use serde::{Deserialize, Serialize};

use crate::ScoreError;

/// How a model's key heads behave on probes. Every list has one entry per key head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadProfile {
    /// Form of the file: [`HeadProfile::VERSION`].
    #[serde(default = "version")]
    pub version: u32,
    /// The model it was measured on.
    #[serde(default)]
    pub model: String,
    /// Checksum of that model's file, SHA-256 in lower-case hexadecimal; empty where nobody knows.
    #[serde(default)]
    pub sha256: String,
    /// How it was measured, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub probe: String,
    /// Layers, the first one first.
    pub layers: Vec<LayerProfile>,
}

/// The key heads of one layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerProfile {
    /// Attention to earlier copies of the same token, see [`echo_and_induction`].
    pub echo: Vec<f32>,
    /// Attention to the tokens after earlier copies.
    pub induction: Vec<f32>,
    /// How much the attention that a key receives varies from query to query, see [`column_variance`].
    #[serde(default)]
    pub variance: Vec<f32>,
}

fn version() -> u32 {
    HeadProfile::VERSION
}

impl Default for HeadProfile {
    fn default() -> Self {
        let empty = String::new;
        Self { version: version(), model: empty(), sha256: empty(), probe: empty(), layers: Vec::new() }
    }
}

impl HeadProfile {
    /// The form that this version reads and writes.
    pub const VERSION: u32 = 1;

    /// Checks that it is for a model of `layers` layers of `kv_heads` key heads, and finite.
    ///
    /// # Errors
    /// [`ScoreError::Setting`] for another form, [`ScoreError::Count`], [`ScoreError::NonFinite`].
    pub fn check(&self, layers: usize, kv_heads: usize) -> Result<(), ScoreError> {
        if self.version != Self::VERSION {
            let (setting, requirement) = ("version of the head profile", "this version reads form 1");
            return Err(ScoreError::Setting { setting, value: self.version as f32, requirement });
        }
        let count = |what, expected, got| {
            if expected == got { Ok(()) } else { Err(ScoreError::Count { what, expected, got }) }
        };
        count("layers of the head profile", layers, self.layers.len())?;
        for layer in &self.layers {
            count("heads of the head profile", kv_heads, layer.echo.len())?;
            count("heads of the head profile", kv_heads, layer.induction.len())?;
            if !layer.variance.is_empty() {
                count("heads of the head profile", kv_heads, layer.variance.len())?;
            }
            for values in [&layer.echo, &layer.induction, &layer.variance] {
                crate::error::all_finite("the head profile", values)?;
            }
        }
        Ok(())
    }

    /// Retrieval heads (arXiv:2407.15891), best first, as (layer, head): the `induction` share with the most induction and the `echo` share with
    /// the most echo, of all heads of the model.
    pub fn retrieval_heads(&self, induction: f64, echo: f64) -> Vec<(usize, usize)> {
        let by_induction = self.ranked(|l| &l.induction);
        let by_echo = self.ranked(|l| &l.echo);
        let total = by_induction.len() as f64;
        let [most_induction, most_echo] =
            [induction, echo].map(|share| (total * share).round_ties_even() as usize);
        // Both lists at once, each in units of its own length.
        let mut ranks: Vec<(f64, (usize, usize))> = Vec::new();
        for (list, len) in [(&by_induction, most_induction), (&by_echo, most_echo)] {
            for (rank, &head) in list.iter().take(len).enumerate() {
                let rank = rank as f64 / len as f64;
                match ranks.iter_mut().find(|(_, h)| *h == head) {
                    Some((best, _)) => *best = best.min(rank),
                    None => ranks.push((rank, head)),
                }
            }
        }
        ranks.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        ranks.into_iter().map(|(_, head)| head).collect()
    }

    /// Contextual heads (arXiv:2504.09261) as (layer, head): the `share` of all heads whose columns vary least.
    ///
    /// # Errors
    /// [`ScoreError::Missing`] for a profile without variances.
    pub fn contextual_heads(&self, share: f64) -> Result<Vec<(usize, usize)>, ScoreError> {
        if self.layers.iter().any(|l| l.variance.is_empty()) {
            return Err(ScoreError::Missing { what: "a head profile with variances" });
        }
        let mut ranked = self.ranked(|l| &l.variance);
        ranked.reverse();
        ranked.truncate((ranked.len() as f64 * share).round_ties_even() as usize);
        Ok(ranked)
    }

    /// All heads, the highest value first; equal values in order.
    fn ranked(&self, of: impl Fn(&LayerProfile) -> &Vec<f32>) -> Vec<(usize, usize)> {
        let mut heads: Vec<(f32, (usize, usize))> = Vec::new();
        for (layer, profile) in self.layers.iter().enumerate() {
            heads.extend(of(profile).iter().enumerate().map(|(head, &value)| (value, (layer, head))));
        }
        heads.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        heads.into_iter().map(|(_, head)| head).collect()
    }
}

/// Echo and induction of one layer on a probe of `period` random tokens, repeated: for every key head the largest of its query heads' means
/// over the rows after the first period. Echo is the attention to earlier copies of the row's token, induction that to the tokens right after
/// them (arXiv:2407.15891).
///
/// `queries` `[query_heads, n, dim]` and `keys` `[kv_heads, n, dim]` are rotated and begin after the first token of the text, which the
/// published search drops together with its column; `first` `[kv_heads, dim]` is that token's key, which takes part in the softmax. Only
/// the columns that count are formed, a row at a time.
///
/// # Errors
/// [`ScoreError::Heads`], [`ScoreError::Count`], [`ScoreError::Setting`] for a period that is not repeated.
pub fn echo_and_induction(
    (query_heads, kv_heads, dim): (usize, usize, usize),
    queries: &[f32],
    keys: &[f32],
    first: Option<&[f32]>,
    period: usize,
) -> Result<LayerProfile, ScoreError> {
    use rayon::prelude::*;
    if kv_heads == 0 || query_heads == 0 || dim == 0 || !query_heads.is_multiple_of(kv_heads) {
        return Err(ScoreError::Heads { query_heads, kv_heads, dim });
    }
    let tokens = keys.len() / (kv_heads * dim);
    for (what, expected, got) in [
        ("numbers of probe keys", tokens * kv_heads * dim, keys.len()),
        ("numbers of probe queries", tokens * query_heads * dim, queries.len()),
        ("numbers of the first key", kv_heads * dim, first.map_or(kv_heads * dim, <[f32]>::len)),
    ] {
        if expected != got {
            return Err(ScoreError::Count { what, expected, got });
        }
    }
    if period == 0 || tokens <= period {
        let requirement = "must be at least 1 and less than the probe";
        return Err(ScoreError::Setting { setting: "period", value: period as f32, requirement });
    }
    let group = query_heads / kv_heads;
    const BLOCK: usize = 64;
    let of_query_head = |head: usize| -> [f64; 2] {
        let queries = &queries[head * tokens * dim..][..tokens * dim];
        let keys = &keys[head / group * tokens * dim..][..tokens * dim];
        let first = first.map(|f| &f[head / group * dim..][..dim]);
        let mut sums = [0f64; 2];
        let mut block = vec![0f32; BLOCK * tokens];
        for start in (period..tokens).step_by(BLOCK) {
            let rows = BLOCK.min(tokens - start);
            let visible = start + rows;
            let block = &mut block[..rows * visible];
            let queries = &queries[start * dim..visible * dim];
            super::attention::logits(block, queries, &keys[..visible * dim], dim);
            for (i, row) in (start..).zip(block.chunks_exact_mut(visible)) {
                let lse = {
                    let own =
                        first.map(|f| dot(&queries[(i - start) * dim..][..dim], f) / (dim as f64).sqrt());
                    let high = row[..=i].iter().copied().fold(f32::NEG_INFINITY, f32::max).into();
                    let high = own.map_or(high, |o: f64| o.max(high));
                    let sum: f64 = row[..=i].iter().map(|&x| (f64::from(x) - high).exp()).sum();
                    high + (sum + own.map_or(0.0, |o| (o - high).exp())).ln()
                };
                let weight = |j: usize| (f64::from(row[j]) - lse).exp();
                for j in (i % period..i).step_by(period) {
                    sums[0] += weight(j);
                    sums[1] += weight(j + 1);
                }
            }
        }
        sums.map(|s| s / (tokens - period) as f64)
    };
    let heads: Vec<[f64; 2]> = (0..query_heads).into_par_iter().map(of_query_head).collect();
    let largest = |side: usize| -> Vec<f32> {
        heads.chunks_exact(group).map(|g| g.iter().map(|h| h[side] as f32).fold(0.0, f32::max)).collect()
    };
    Ok(LayerProfile { echo: largest(0), induction: largest(1), variance: Vec::new() })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// How much each column of attention weights (`[rows, columns]`) varies over the rows, averaged over the columns: low for stripes that every
/// query draws (contextual heads), high for diagonals (structural heads) (arXiv:2504.09261).
pub fn column_variance(weights: &[f32], columns: usize) -> f32 {
    let rows = weights.len() / columns.max(1);
    if rows == 0 {
        return 0.0;
    }
    let mut sums = vec![[0f64; 2]; columns];
    for row in weights.chunks_exact(columns) {
        for ([sum, squares], &w) in sums.iter_mut().zip(row) {
            *sum += f64::from(w);
            *squares += f64::from(w) * f64::from(w);
        }
    }
    let count = rows as f64;
    let variance = |&[sum, squares]: &[f64; 2]| (squares / count - (sum / count).powi(2)).max(0.0);
    (sums.iter().map(variance).sum::<f64>() / columns as f64) as f32
}

/// [`column_variance`] of each key head, of the attention of `count` queries at equal distances over the text; the mean over its query heads.
///
/// # Errors
/// Those of [`super::sampled_rows`].
pub fn attention_variance(seen: &dyn super::TokenObservation, count: usize) -> Result<Vec<f32>, ScoreError> {
    let rows = super::sampled_rows(seen, count)?;
    let group = seen.query_heads() / seen.kv_heads().max(1);
    let of_query_head = |head: usize| column_variance(rows.head(head), seen.tokens());
    let of_key_head =
        |head: usize| (head * group..(head + 1) * group).map(of_query_head).sum::<f32>() / group as f32;
    Ok((0..seen.kv_heads()).map(of_key_head).collect())
}
