//! The allocation: a Lagrangian, and what is left of the budget spent greedily.

use rayon::prelude::*;

use super::hull::{MOST_TIERS, slopes, start};
use crate::ScoreError;

/// Tokens that may be kept in the same tiers: usually those of one head of one layer.
#[derive(Clone, Copy, Debug)]
pub struct RateGroup<'a> {
    /// What a token costs in each tier, ascending.
    pub costs: &'a [u32],
    /// What each token loses in each tier, `[tokens, tiers]`, none negative.
    pub distortion: &'a [f32],
    /// The first so many tokens, and the last so many, are in the last tier, whatever it costs.
    pub fixed: (usize, usize),
    /// What holds when tokens are in tiers already.
    pub refresh: Option<Refresh<'a>>,
}

/// A group that was allocated before.
#[derive(Clone, Copy, Debug)]
pub struct Refresh<'a> {
    /// The tier of each token.
    pub current: &'a [u8],
    /// Share of its distortion that a token is forgiven for staying where it is, in `0..1`: small changes of importance do not move it to and fro.
    pub hysteresis: f32,
    /// Whether what a lower tier has lost can be had back, as from a copy on the host. Without it no token moves up.
    pub restorable: bool,
}

/// Who is kept how.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Tier of each token, group by group.
    pub tiers: Vec<Vec<u8>>,
    /// What all of it costs; never more than the budget.
    pub cost: u64,
    /// Sum of distortions, of fixed tokens too.
    pub distortion: f64,
    /// What a unit of the budget was worth at its end: distortion for cost.
    pub price: f32,
}

struct Checked<'a> {
    group: &'a RateGroup<'a>,
    costs: [f32; MOST_TIERS],
    tokens: usize,
    /// Tokens that are allocated.
    free: std::ops::Range<usize>,
}

impl<'a> Checked<'a> {
    fn new(group: &'a RateGroup<'a>) -> Result<Self, ScoreError> {
        let tiers = group.costs.len();
        let count = |what, expected, got| {
            if expected == got { Ok(()) } else { Err(ScoreError::Count { what, expected, got }) }
        };
        if tiers == 0 || tiers > MOST_TIERS {
            let requirement = "must be 1 to 16";
            return Err(ScoreError::Setting { setting: "tiers", value: tiers as f32, requirement });
        }
        if let Some(pair) = group.costs.windows(2).find(|pair| pair[0] > pair[1]) {
            let requirement = "must not fall from tier to tier";
            return Err(ScoreError::Setting { setting: "cost", value: pair[1] as f32, requirement });
        }
        let tokens = group.distortion.len() / tiers;
        count("distortions", tokens * tiers, group.distortion.len())?;
        let bad = |x: &f32| !(*x >= 0.0 && x.is_finite());
        let any = group.distortion.iter().fold(false, |any, x| any | bad(x));
        if let Some(at) = group.distortion.iter().position(bad).filter(|_| any) {
            return Err(ScoreError::NonFinite {
                what: "distortion",
                candidate: at / tiers,
                value: group.distortion[at],
            });
        }
        if let Some(refresh) = &group.refresh {
            count("current tiers", tokens, refresh.current.len())?;
            if let Some(&tier) = refresh.current.iter().find(|&&tier| usize::from(tier) >= tiers) {
                let requirement = "must be one of the tiers";
                return Err(ScoreError::Setting { setting: "current tier", value: tier.into(), requirement });
            }
            if !(0.0..1.0).contains(&refresh.hysteresis) {
                let requirement = "must be at least 0 and below 1";
                return Err(ScoreError::Setting {
                    setting: "hysteresis",
                    value: refresh.hysteresis,
                    requirement,
                });
            }
        }
        let mut costs = [0f32; MOST_TIERS];
        costs.iter_mut().zip(group.costs).for_each(|(to, &cost)| *to = cost as f32);
        let first = group.fixed.0.min(tokens);
        Ok(Self { group, costs, tokens, free: first..tokens.saturating_sub(group.fixed.1).max(first) })
    }

    fn tiers(&self) -> usize {
        self.group.costs.len()
    }

    /// Distortions by which a token is allocated, and how many of its tiers it may be in.
    fn token(&self, token: usize, buffer: &mut [f32; MOST_TIERS]) -> usize {
        let tiers = self.tiers();
        buffer[..tiers].copy_from_slice(&self.group.distortion[token * tiers..][..tiers]);
        let Some(refresh) = &self.group.refresh else { return tiers };
        let current = usize::from(refresh.current[token]);
        buffer[current] *= 1.0 - refresh.hysteresis;
        if refresh.restorable { tiers } else { current + 1 }
    }

    /// The fixed tokens' tier: the last, or where they are when that cannot be had any more.
    fn fixed_tier(&self, token: usize) -> usize {
        match &self.group.refresh {
            Some(refresh) if !refresh.restorable => refresh.current[token].into(),
            _ => self.tiers() - 1,
        }
    }
}

/// A step of a token to a higher tier.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    slope: f32,
    group: u32,
    token: u32,
    tier: u32,
}

impl Step {
    /// The best first; of equals the one of the earlier token.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let place = |s: &Self| (s.group, s.token, s.tier);
        other.slope.total_cmp(&self.slope).then_with(|| place(self).cmp(&place(other)))
    }
}

/// Slopes that share their upper 16 bits are in one bin: about a 128th of their size apart.
fn bin(slope: f32) -> usize {
    (slope.to_bits() >> 16) as usize
}

const BINS: usize = 1 << 15;

/// Spends `budget` on tokens of all groups.
///
/// Tokens climb the lower convex hulls of their tiers, the steepest step first; steps that no longer fit make way for the best of whatever does, also between the tiers of a
/// hull. Equal steps go to the earlier group and token. More budget never means more distortion (as the allocation sees it: with what a refresh forgives).
///
/// # Errors
/// [`ScoreError::Budget`] when fixed tokens and the cheapest tiers of the others cost more than the budget, [`ScoreError::Setting`], [`ScoreError::Count`],
/// [`ScoreError::NonFinite`] for groups that make no sense.
pub fn allocate(groups: &[RateGroup<'_>], budget: u64) -> Result<Allocation, ScoreError> {
    let checked = groups.iter().map(Checked::new).collect::<Result<Vec<_>, _>>()?;
    // What each step is worth, `[tokens, tiers]`; costs of the start; and how much is spent on steps of each bin.
    let climbed: Vec<(Vec<f32>, Vec<u8>, u64, Vec<u64>)> = checked.par_iter().map(climb).collect();
    let least: u64 = climbed.iter().map(|c| c.2).sum();
    if least > budget {
        return Err(ScoreError::Budget { needed: least, budget });
    }
    let mut left = budget - least;
    let mut spent = vec![0u64; BINS];
    for (_, _, _, bins) in &climbed {
        spent.iter_mut().zip(bins).for_each(|(s, b)| *s += b);
    }
    // Whole bins, from the steepest; the first that does not fit is looked at step by step.
    let mut critical = None;
    for (at, &cost) in spent.iter().enumerate().rev().filter(|(_, cost)| **cost > 0) {
        if cost > left {
            critical = Some(at);
            break;
        }
        left -= cost;
    }
    let above = critical.map_or(0, |at| at + 1);
    let mut tiers: Vec<Vec<u8>> = checked
        .par_iter()
        .zip(&climbed)
        .map(|(group, (slopes, starts, _, _))| {
            let mut tiers = starts.clone();
            let count = group.tiers();
            for token in group.free.clone() {
                for (tier, slope) in slopes[token * count..][..count].iter().enumerate() {
                    if *slope > 0.0 && bin(*slope) >= above {
                        tiers[token] = tier as u8;
                    }
                }
            }
            tiers
        })
        .collect();
    let mut price = 0.0;
    if let Some(critical) = critical {
        let mut steps: Vec<Step> = Vec::new();
        for (number, (group, (slopes, _, _, _))) in checked.iter().zip(&climbed).enumerate() {
            let count = group.tiers();
            for (i, &slope) in slopes.iter().enumerate().filter(|(_, s)| **s > 0.0 && bin(**s) == critical) {
                let (token, tier) = ((i / count) as u32, (i % count) as u32);
                steps.push(Step { slope, group: number as u32, token, tier });
            }
        }
        steps.sort_unstable_by(Step::order);
        for step in steps {
            price = step.slope;
            let cost = take(&checked, &tiers, &step);
            if cost > left {
                break;
            }
            left -= cost;
            tiers[step.group as usize][step.token as usize] = step.tier as u8;
        }
        spend(&checked, &mut tiers, left);
    }
    let total = |f: &(dyn Fn(&Checked<'_>, usize, usize) -> f64 + Sync)| -> f64 {
        let of = |(group, tiers): (&Checked<'_>, &Vec<u8>)| {
            tiers.iter().enumerate().map(|(token, &tier)| f(group, token, tier.into())).sum::<f64>()
        };
        checked.iter().zip(&tiers).map(of).sum()
    };
    let distortion =
        total(&|group, token, tier| f64::from(group.group.distortion[token * group.tiers() + tier]));
    let cost_of = |(group, tiers): (&Checked<'_>, &Vec<u8>)| {
        tiers.iter().map(|&tier| u64::from(group.group.costs[usize::from(tier)])).sum::<u64>()
    };
    let cost = checked.iter().zip(&tiers).map(cost_of).sum();
    Ok(Allocation { tiers, cost, distortion, price })
}

/// Slopes, starts, the cost of the starts, and what the steps of each bin cost.
fn climb(group: &Checked<'_>) -> (Vec<f32>, Vec<u8>, u64, Vec<u64>) {
    let count = group.tiers();
    let mut all = vec![0f32; group.tokens * count];
    let mut starts = vec![0u8; group.tokens];
    let mut bins = vec![0u64; BINS];
    let mut least = 0u64;
    let mut distortion = [0f32; MOST_TIERS];
    for (token, into) in all.chunks_exact_mut(count).enumerate() {
        let first = if group.free.contains(&token) {
            let allowed = group.token(token, &mut distortion);
            let (costs, distortion) = (&group.costs[..allowed], &distortion[..allowed]);
            slopes(costs, distortion, &mut into[..allowed]);
            let first = start(costs, distortion);
            let mut below = first;
            for tier in first + 1..allowed {
                if into[tier] > 0.0 {
                    bins[bin(into[tier])] += u64::from(group.group.costs[tier] - group.group.costs[below]);
                    below = tier;
                }
            }
            first
        } else {
            group.fixed_tier(token)
        };
        starts[token] = first as u8;
        least += u64::from(group.group.costs[first]);
    }
    (all, starts, least, bins)
}

/// What a step costs from where its token is.
fn take(checked: &[Checked<'_>], tiers: &[Vec<u8>], step: &Step) -> u64 {
    let costs = checked[step.group as usize].group.costs;
    let from = tiers[step.group as usize][step.token as usize];
    u64::from(costs[step.tier as usize] - costs[usize::from(from)])
}

/// Steps that are remembered between looks at all tokens.
const REMEMBERED: usize = 64;

/// The best step of a token that costs no more than `left`.
fn best_step(group: &Checked<'_>, number: usize, token: usize, from: u8, left: u64) -> Option<Step> {
    let mut distortion = [0f32; MOST_TIERS];
    let allowed = group.token(token, &mut distortion);
    let from = usize::from(from);
    let mut best: Option<Step> = None;
    for tier in from + 1..allowed {
        let cost = u64::from(group.group.costs[tier] - group.group.costs[from]);
        let gain = distortion[from] - distortion[tier];
        if cost > left || gain <= 0.0 {
            continue;
        }
        let slope = if cost == 0 { f32::INFINITY } else { gain / cost as f32 };
        if best.is_none_or(|best| slope > best.slope) {
            best = Some(Step { slope, group: number as u32, token: token as u32, tier: tier as u32 });
        }
    }
    best
}

/// Takes the best step that fits, again and again. What fits gets less as it goes, so a token's best step never gets better: those that were not remembered are not
/// better than the worst that was.
fn spend(checked: &[Checked<'_>], tiers: &mut [Vec<u8>], mut left: u64) {
    while left > 0 {
        let best_of = |(number, group): (usize, &Checked<'_>)| {
            let own = &tiers[number];
            let steps =
                group.free.clone().filter_map(|token| best_step(group, number, token, own[token], left));
            let mut best: Vec<Step> = Vec::with_capacity(2 * REMEMBERED);
            let mut worst = f32::NEG_INFINITY;
            for step in steps.filter(|s| s.slope > 0.0) {
                if best.len() >= REMEMBERED && step.slope < worst {
                    continue;
                }
                best.push(step);
                if best.len() == 2 * REMEMBERED {
                    best.sort_unstable_by(Step::order);
                    best.truncate(REMEMBERED);
                    worst = best[REMEMBERED - 1].slope;
                }
            }
            best
        };
        let mut best: Vec<Step> = checked.par_iter().enumerate().flat_map_iter(best_of).collect();
        best.sort_unstable_by(Step::order);
        let more = best.len() > REMEMBERED;
        best.truncate(REMEMBERED);
        let Some(bound) = best.last().copied() else { return };
        loop {
            // The first is the best; steps that no longer fit are replaced by what still does.
            best.sort_unstable_by(Step::order);
            let Some(step) = best.first().copied() else { break };
            if more && bound.order(&step).is_lt() {
                break;
            }
            let (group, token) = (step.group as usize, step.token as usize);
            let cost = take(checked, tiers, &step);
            if cost <= left {
                left -= cost;
                tiers[group][token] = step.tier as u8;
            }
            match best_step(&checked[group], group, token, tiers[group][token], left) {
                Some(next) => best[0] = next,
                None => {
                    best.remove(0);
                }
            }
        }
        if !more {
            return;
        }
    }
}
