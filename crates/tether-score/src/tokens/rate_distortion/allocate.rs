//! The allocation: a Lagrangian, and what is left of the budget spent greedily.

use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::hull::{MOST_TIERS, TierCosts};
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
    costs: TierCosts,
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
        let first = group.fixed.0.min(tokens);
        Ok(Self {
            group,
            costs: TierCosts::new(group.costs),
            tokens,
            free: first..tokens.saturating_sub(group.fixed.1).max(first),
        })
    }

    fn tiers(&self) -> usize {
        self.costs.len()
    }

    /// Distortions by which a token is allocated, of those of its tiers that it may be in.
    #[inline]
    fn token<'b>(&'b self, token: usize, buffer: &'b mut [f32; MOST_TIERS]) -> &'b [f32] {
        let tiers = self.tiers();
        let own = &self.group.distortion[token * tiers..][..tiers];
        let Some(refresh) = &self.group.refresh else { return own };
        buffer[..tiers].copy_from_slice(own);
        let current = usize::from(refresh.current[token]);
        buffer[current] *= 1.0 - refresh.hysteresis;
        if refresh.restorable { &buffer[..tiers] } else { &buffer[..=current] }
    }

    /// The first distortion that makes no sense.
    fn check_distortion(&self) -> Result<(), ScoreError> {
        let bad = |x: &f32| !(*x >= 0.0 && x.is_finite());
        // Without early exit first, so that the compiler can use vector instructions.
        if !self.group.distortion.iter().fold(false, |any, x| any | bad(x)) {
            return Ok(());
        }
        let at = self.group.distortion.iter().position(bad).unwrap_or(0);
        let (candidate, value) = (at / self.tiers(), self.group.distortion[at]);
        Err(ScoreError::NonFinite { what: "distortion", candidate, value })
    }

    /// The fixed tokens' tier: the last, or where they are when that cannot be had any more.
    fn fixed_tier(&self, token: usize) -> usize {
        match &self.group.refresh {
            Some(refresh) if !refresh.restorable => refresh.current[token].into(),
            _ => self.tiers() - 1,
        }
    }
}

/// A step of a token to a higher tier. The greater of two is the better.
#[derive(Clone, Copy, Debug)]
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

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.order(self)
    }
}

/// Slopes that share their upper 14 bits are in one bin: about a 32nd of their size apart.
fn bin(slope: f32) -> usize {
    (slope.to_bits() >> 18) as usize
}

const BINS: usize = 1 << 13;

/// What a group's tokens may do.
struct Climb {
    /// What each step along the hull is worth, `[tokens, tiers]`.
    slopes: Vec<f32>,
    /// Where each token is.
    tiers: Vec<u8>,
    /// No step of a token is worth more than this.
    next: Vec<f32>,
    /// What being there costs.
    cost: u64,
    /// What the steps of each bin cost.
    bins: Vec<u64>,
}

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
    let mut climbs: Vec<Climb> = checked.par_iter().map(climb).collect::<Result<_, _>>()?;
    let least: u64 = climbs.iter().map(|c| c.cost).sum();
    if least > budget {
        return Err(ScoreError::Budget { needed: least, budget });
    }
    let mut left = budget - least;
    let mut spent = vec![0u64; BINS];
    for climb in &climbs {
        spent.iter_mut().zip(&climb.bins).for_each(|(s, b)| *s += b);
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
    let pairs = checked.par_iter().zip(&mut climbs).enumerate();
    let steps = pairs.flat_map_iter(|(number, (group, climb))| settle(number, group, climb, critical));
    let mut steps: Vec<Step> = steps.collect();
    let mut price = 0.0;
    if critical.is_some() {
        steps.sort_unstable_by(Step::order);
        for step in steps {
            price = step.slope;
            let cost = take(&checked, &climbs, &step);
            if cost > left {
                break;
            }
            left -= cost;
            climbs[step.group as usize].tiers[step.token as usize] = step.tier as u8;
        }
        spend(&checked, &mut climbs, left, price);
    }
    let total = |(group, climb): (&Checked<'_>, &Climb)| {
        let (costs, distortion) = (group.group.costs, group.group.distortion.chunks_exact(group.tiers()));
        let each = climb.tiers.iter().zip(distortion);
        each.fold((0u64, 0f64), |(cost, sum), (&tier, distortion)| {
            (cost + u64::from(costs[usize::from(tier)]), sum + f64::from(distortion[usize::from(tier)]))
        })
    };
    // Summed in order: the result does not depend on the number of threads.
    let totals: Vec<(u64, f64)> = checked.par_iter().zip(&climbs).map(total).collect();
    let (cost, distortion) =
        totals.iter().fold((0, 0.0), |(c, d), (cost, distortion)| (c + cost, d + distortion));
    Ok(Allocation { tiers: climbs.into_iter().map(|c| c.tiers).collect(), cost, distortion, price })
}

/// Every token at the first tier of its hull, or where it is fixed.
fn climb(group: &Checked<'_>) -> Result<Climb, ScoreError> {
    group.check_distortion()?;
    let count = group.tiers();
    let mut slopes = vec![0f32; group.tokens * count];
    let mut tiers = vec![0u8; group.tokens];
    let mut bins = vec![0u64; BINS];
    for token in (0..group.free.start).chain(group.free.end..group.tokens) {
        tiers[token] = group.fixed_tier(token) as u8;
    }
    let mut buffer = [0f32; MOST_TIERS];
    for token in group.free.clone() {
        let distortion = group.token(token, &mut buffer);
        let into = &mut slopes[token * count..][..distortion.len()];
        let first = group.costs.hull(distortion, into);
        tiers[token] = first as u8;
        let mut below = first;
        for (tier, &slope) in into.iter().enumerate().skip(first + 1) {
            if slope > 0.0 {
                bins[bin(slope)] += u64::from(group.costs.between(below, tier));
                below = tier;
            }
        }
    }
    let cost = tiers.iter().map(|&tier| u64::from(group.group.costs[usize::from(tier)])).sum();
    Ok(Climb { slopes, tiers, next: Vec::new(), cost, bins })
}

/// Takes the steps above the critical bin, and returns those in it.
fn settle(number: usize, group: &Checked<'_>, climb: &mut Climb, critical: Option<usize>) -> Vec<Step> {
    let count = group.tiers();
    let mut steps = Vec::new();
    climb.next = vec![0f32; group.tokens];
    for token in group.free.clone() {
        for (tier, &slope) in climb.slopes[token * count..][..count].iter().enumerate() {
            if slope <= 0.0 {
                continue;
            }
            if critical.is_none_or(|critical| bin(slope) > critical) {
                climb.tiers[token] = tier as u8;
                continue;
            }
            climb.next[token] = climb.next[token].max(slope);
            if critical == Some(bin(slope)) {
                steps.push(Step { slope, group: number as u32, token: token as u32, tier: tier as u32 });
            }
        }
    }
    steps
}

/// What a step costs from where its token is.
fn take(checked: &[Checked<'_>], climbs: &[Climb], step: &Step) -> u64 {
    let from = climbs[step.group as usize].tiers[step.token as usize];
    checked[step.group as usize].costs.between(from.into(), step.tier as usize).into()
}

/// The best step of a token that costs no more than `left`.
fn best_step(group: &Checked<'_>, (number, token): (u32, u32), from: u8, left: u64) -> Option<Step> {
    let mut buffer = [0f32; MOST_TIERS];
    let distortion = group.token(token as usize, &mut buffer);
    let from = usize::from(from);
    let mut best: Option<Step> = None;
    for tier in from + 1..distortion.len() {
        if u64::from(group.costs.between(from, tier)) > left || distortion[tier] >= distortion[from] {
            continue;
        }
        let slope = group.costs.slope(from, tier, distortion);
        if best.is_none_or(|best| slope > best.slope) {
            best = Some(Step { slope, group: number, token, tier: tier as u32 });
        }
    }
    best
}

/// Takes the best step that fits, again and again.
///
/// What fits gets less as it goes, so a token's best step never gets better, and never is better than the next of its hull was. So tokens are looked at in rounds: first those whose next
/// step is worth half the price, until no step of theirs is, and so on downwards.
fn spend(checked: &[Checked<'_>], climbs: &mut [Climb], mut left: u64, price: f32) {
    let steps =
        checked.iter().flat_map(|g| g.group.costs.windows(2).map(|pair| u64::from(pair[1] - pair[0])));
    let cheapest = steps.filter(|&cost| cost > 0).min().unwrap_or(u64::MAX);
    let mut worth = price / 2.0;
    while left >= cheapest {
        let of_group = |(number, (group, climb)): (usize, (&Checked<'_>, &Climb))| {
            let tokens =
                group.free.clone().filter(|&token| climb.next[token] > 0.0 && climb.next[token] >= worth);
            let steps = tokens.filter_map(|token| {
                best_step(group, (number as u32, token as u32), climb.tiers[token], left)
            });
            steps.filter(|step| step.slope >= worth).collect::<Vec<_>>()
        };
        let pairs = checked.par_iter().zip(&*climbs).enumerate();
        let steps: Vec<Step> = pairs.flat_map_iter(of_group).collect();
        let mut steps: BinaryHeap<Step> = steps.into();
        while let Some(step) = steps.pop() {
            let (group, token) = (step.group as usize, step.token as usize);
            let cost = take(checked, climbs, &step);
            if cost <= left {
                left -= cost;
                climbs[group].tiers[token] = step.tier as u8;
            }
            let next = best_step(&checked[group], (step.group, step.token), climbs[group].tiers[token], left);
            steps.extend(next.filter(|next| next.slope >= worth));
            if left < cheapest {
                return;
            }
        }
        if worth == 0.0 {
            return;
        }
        // Less than an eighth of the price is rare, and then anything may be.
        worth = if worth > price / 8.0 { worth / 2.0 } else { 0.0 };
    }
}
