//! One budget for keys and values: equal bits, fewer tokens, or both as rate and distortion have it.

use anyhow::Result;
use tether_codec::{SphericalBits, SphericalFormat, SphericalFrame};
use tether_core::{HostTensor, Side};
use tethercache::score::tokens::{RateGroup, RateWindow, TierError, allocate};

use super::record::HeadTrace;
use super::scheme::spherical;
use super::score::{Changed, Score, scores};

/// Bits of the uniform codec whose cost is the budget.
pub(crate) const BUDGETS: [SphericalBits; 3] = [SphericalBits::One, SphericalBits::Two, SphericalBits::Three];
/// Tokens at the beginning that always stay.
const SINKS: usize = 4;
/// Tokens that a score is the mean of, for SnapKV.
const POOLED: usize = 5;

/// What was measured under one budget.
pub(crate) struct Retention {
    /// Relative output error of equal bits.
    pub(crate) uniform: f64,
    /// The same of SnapKV's best tokens at 4 bits.
    pub(crate) keep: f64,
    /// Every head has the same budget.
    pub(crate) own: Outcome,
    /// All heads of all layers share one.
    pub(crate) shared: Outcome,
}

/// What an allocation came to.
pub(crate) struct Outcome {
    pub(crate) score: Score,
    /// Share of tokens that are dropped.
    pub(crate) dropped: f64,
    /// Mean squared change of an output, as the allocation foresaw.
    pub(crate) predicted: f64,
}

/// A head's prefix in every tier.
struct Prefix<'a> {
    head: &'a HeadTrace,
    tokens: usize,
    k_frame: SphericalFrame,
    v_frame: SphericalFrame,
    /// Keys and values after a codec of [`SphericalBits::ALL`], as they are needed.
    coded: Vec<(Vec<f32>, Vec<f32>)>,
}

impl<'a> Prefix<'a> {
    fn new(head: &'a HeadTrace, tokens: usize, seed: u64) -> Result<Self> {
        let part = |x: &[f32]| HostTensor::from_f32(&[tokens, 1, head.dim], x[..tokens * head.dim].to_vec());
        let (k, v) = (part(&head.k)?, part(&head.v)?);
        let (k_frame, v_frame) = (SphericalFrame::centred(&k, seed)?, SphericalFrame::centred(&v, seed + 1)?);
        let coded = SphericalBits::ALL
            .into_iter()
            .map(|bits| {
                Ok((
                    spherical(&k, &k_frame, SphericalFormat::of(Side::Keys, bits))?,
                    spherical(&v, &v_frame, SphericalFormat::of(Side::Values, bits))?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self { head, tokens, k_frame, v_frame, coded })
    }

    /// The head with its prefix coded: tier 0 is dropped, tier `i` the bits `SphericalBits::ALL[i - 1]`.
    fn changed(&self, tier: impl Fn(usize) -> usize) -> Changed<'a> {
        let (mut keys, mut values) = (self.head.k.clone(), self.head.v.clone());
        let mut dropped = Vec::new();
        for token in 0..self.tokens {
            match tier(token).checked_sub(1) {
                None => dropped.push(token),
                Some(bits) => {
                    let row = token * self.head.dim..(token + 1) * self.head.dim;
                    keys[row.clone()].copy_from_slice(&self.coded[bits].0[row.clone()]);
                    values[row.clone()].copy_from_slice(&self.coded[bits].1[row]);
                }
            }
        }
        Changed { head: self.head, keys, values, dropped }
    }

    fn window_queries(&self, window: usize) -> Vec<f32> {
        let rows = (self.tokens - window) * self.head.dim..self.tokens * self.head.dim;
        self.head.q.iter().flat_map(|q| q[rows.clone()].iter().copied()).collect()
    }

    fn distortion(&self, window: usize) -> Result<Vec<f32>> {
        let mut tiers = vec![TierError::Dropped];
        tiers.extend(SphericalBits::ALL.map(|bits| TierError::Coded(bits.distortion())));
        let (k_mean, v_mean): (Vec<f32>, Vec<f32>) =
            (self.k_frame.mean(0).collect(), self.v_frame.mean(0).collect());
        let seen = RateWindow {
            q: &self.window_queries(window),
            group: self.head.q.len(),
            k: &self.head.k[..self.tokens * self.head.dim],
            v: &self.head.v[..self.tokens * self.head.dim],
            k_mean: &k_mean,
            v_mean: &v_mean,
            scale: self.head.scale(),
        };
        Ok(seen.distortion(&tiers)?)
    }

    /// The `count` tokens that SnapKV keeps: those with the highest pooled attention of the window, and the window.
    fn kept(&self, window: usize, count: usize) -> Vec<bool> {
        let (dim, tokens) = (self.head.dim, self.tokens);
        let mut mass = vec![0f64; tokens];
        for (row, q) in self.window_queries(window).chunks_exact(dim).enumerate() {
            let seen = tokens - window + row % window + 1;
            let dot = |token: usize| -> f64 {
                let k = &self.head.k[token * dim..][..dim];
                q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() * f64::from(self.head.scale())
            };
            let logits: Vec<f64> = (0..seen).map(dot).collect();
            let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
            mass.iter_mut().zip(logits).for_each(|(m, l)| *m += (l - highest).exp() / total);
        }
        let before = tokens - window;
        let pooled = |i: usize| -> f64 {
            (i.saturating_sub(POOLED / 2)..(i + POOLED / 2 + 1).min(before)).map(|j| mass[j]).sum()
        };
        let mut order: Vec<usize> = (0..before).collect();
        order.sort_by(|&a, &b| pooled(b).total_cmp(&pooled(a)).then(a.cmp(&b)));
        let mut kept = vec![false; tokens];
        kept[before..].fill(true);
        order.into_iter().take(count.saturating_sub(window)).for_each(|i| kept[i] = true);
        kept
    }
}

/// Compresses what comes before the last `queries` queries, from the `window` queries before those, to what it costs in `budget` bits. `seed` is that of the keys' rotation; the
/// values' is the next.
pub(crate) fn compare(
    heads: &[HeadTrace],
    queries: usize,
    window: usize,
    budget: SphericalBits,
    seed: u64,
) -> Result<Retention> {
    let prefix = |head| Prefix::new(head, HeadTrace::tokens(head) - queries, seed);
    let prefixes = heads.iter().map(prefix).collect::<Result<Vec<_>>>()?;
    let place = |bits| SphericalBits::ALL.iter().position(|b| *b == bits).map_or(0, |i| i + 1);
    let all = |tiers: &dyn Fn(usize, usize) -> usize| -> Vec<Changed<'_>> {
        prefixes.iter().enumerate().map(|(number, p)| p.changed(|token| tiers(number, token))).collect()
    };
    let uniform = scores(&all(&|_, _| place(budget)), queries).error;

    let row_bits = |bits, dim| SphericalFormat::of(Side::Keys, bits).row_bits(dim);
    let kept: Vec<Vec<bool>> = prefixes
        .iter()
        .map(|p| {
            let count = p.tokens * row_bits(budget, p.head.dim) / row_bits(SphericalBits::Four, p.head.dim);
            p.kept(window, count)
        })
        .collect();
    let four = place(SphericalBits::Four);
    let keep = scores(&all(&|number, token| if kept[number][token] { four } else { 0 }), queries).error;

    let distortions = prefixes.iter().map(|p| p.distortion(window)).collect::<Result<Vec<_>>>()?;
    let costs: Vec<Vec<u32>> = prefixes
        .iter()
        .map(|p| {
            let cost = |bits| 2 * row_bits(bits, p.head.dim) as u32;
            std::iter::once(0).chain(SphericalBits::ALL.map(cost)).collect()
        })
        .collect();
    let groups: Vec<RateGroup<'_>> = costs
        .iter()
        .zip(&distortions)
        .map(|(costs, distortion)| RateGroup { costs, distortion, fixed: (SINKS, window), refresh: None })
        .collect();
    let budgets: Vec<u64> =
        prefixes.iter().map(|p| (2 * p.tokens * row_bits(budget, p.head.dim)) as u64).collect();
    let outcome = |tiers: &[Vec<u8>], distortion: f64| {
        let count =
            |wanted: &dyn Fn(u8) -> bool| tiers.iter().flatten().filter(|t| wanted(**t)).count() as f64;
        Outcome {
            score: scores(&all(&|number, token| tiers[number][token].into()), queries),
            dropped: count(&|tier| tier == 0) / count(&|_| true),
            predicted: distortion / prefixes.len() as f64,
        }
    };
    let own =
        groups.iter().zip(&budgets).map(|(group, budget)| allocate(std::slice::from_ref(group), *budget));
    let own = own.collect::<Result<Vec<_>, _>>()?;
    let predicted = own.iter().map(|a| a.distortion).sum();
    let own: Vec<Vec<u8>> = own.into_iter().flat_map(|a| a.tiers).collect();
    let shared = allocate(&groups, budgets.iter().sum())?;
    Ok(Retention {
        uniform,
        keep,
        own: outcome(&own, predicted),
        shared: outcome(&shared.tiers, shared.distortion),
    })
}
