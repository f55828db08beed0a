//! Who is kept how precisely.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_score::ScoreError;
use tether_score::tokens::{
    RateGroup, RateWindow, Refresh, TierError, TierPages, allocate, distortion_of_scores, whole_pages,
};

fn group<'a>(costs: &'a [u32], distortion: &'a [f32]) -> RateGroup<'a> {
    RateGroup { costs, distortion, fixed: (0, 0), refresh: None }
}

#[test]
fn the_example_by_hand() {
    // Two tokens: (0, 20) costs 8 + 0, (10, 10) 2 + 3, (20, 0) 1 + 4.
    let distortion = [8.0, 2.0, 1.0, 4.0, 3.0, 0.0];
    let got = allocate(&[group(&[0, 10, 20], &distortion)], 20).unwrap();
    assert_eq!((got.cost, got.distortion), (20, 5.0));
    // The first token's step to 10 is the steepest; what is left takes one more step of a tenth.
    assert_eq!(got.tiers, [[2, 0]]);
    assert_eq!(allocate(&[group(&[0, 10, 20], &distortion)], 40).unwrap().tiers, [[2, 2]]);
    assert_eq!(allocate(&[group(&[0, 10, 20], &distortion)], 9).unwrap().tiers, [[0, 0]]);
}

#[test]
fn fixed_tokens_are_paid_first_and_refused_when_they_cannot_be() {
    let distortion = [1.0, 0.0].repeat(5);
    let fixed = RateGroup { fixed: (1, 2), ..group(&[0, 10], &distortion) };
    let got = allocate(&[fixed], 40).unwrap();
    assert_eq!(got.tiers, [[1, 1, 0, 1, 1]]);
    assert_eq!(allocate(&[fixed], 29), Err(ScoreError::Budget { needed: 30, budget: 29 }));
    let all = RateGroup { fixed: (9, 9), ..fixed };
    assert_eq!(allocate(&[all], 50).unwrap().tiers, [[1; 5]]);
}

#[test]
fn a_refresh_moves_down_only_and_not_for_little() {
    let distortion = [8.0, 4.0, 0.0, 8.0, 4.2, 0.0];
    let costs = [0, 10, 20];
    let refresh = |current, hysteresis, restorable| RateGroup {
        refresh: Some(Refresh { current, hysteresis, restorable }),
        ..group(&costs, &distortion)
    };
    assert_eq!(allocate(&[refresh(&[1, 2], 0.0, false)], 40).unwrap().tiers, [[1, 2]]);
    assert_eq!(allocate(&[refresh(&[1, 2], 0.0, true)], 40).unwrap().tiers, [[2, 2]]);
    // Of two tokens that are nearly worth the same, the one that is there stays.
    let distortion = [8.0, 0.0, 8.4, 0.0];
    let refresh = |hysteresis| RateGroup {
        refresh: Some(Refresh { current: &[1, 0], hysteresis, restorable: true }),
        ..group(&[0, 10], &distortion)
    };
    assert_eq!(allocate(&[refresh(0.0)], 10).unwrap().tiers, [[0, 1]]);
    let other = [8.0, 1.0, 8.4, 1.0];
    let sticky = RateGroup { distortion: &other, ..refresh(0.9) };
    assert_eq!(allocate(&[sticky], 10).unwrap().tiers, [[1, 0]]);
}

#[test]
fn groups_that_make_no_sense_are_refused() {
    assert!(matches!(allocate(&[group(&[], &[])], 1), Err(ScoreError::Setting { setting: "tiers", .. })));
    assert!(matches!(
        allocate(&[group(&[3, 2], &[0.0; 2])], 9),
        Err(ScoreError::Setting { setting: "cost", .. })
    ));
    assert!(matches!(allocate(&[group(&[0, 2], &[0.0; 3])], 9), Err(ScoreError::Count { .. })));
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let e = allocate(&[group(&[0, 2], &[0.0, 0.0, bad, 0.0])], 9);
        assert!(matches!(e, Err(ScoreError::NonFinite { candidate: 1, .. })), "{e:?}");
    }
    let refresh = |current, hysteresis| {
        let refresh = Some(Refresh { current, hysteresis, restorable: false });
        allocate(&[RateGroup { refresh, ..group(&[0, 2], &[0.0; 4]) }], 9)
    };
    assert!(matches!(refresh(&[0], 0.0), Err(ScoreError::Count { .. })));
    assert!(matches!(refresh(&[0, 2], 0.0), Err(ScoreError::Setting { setting: "current tier", .. })));
    assert!(matches!(refresh(&[0, 1], 1.0), Err(ScoreError::Setting { setting: "hysteresis", .. })));
    assert_eq!(allocate(&[], 5).unwrap().cost, 0);
}

#[test]
fn estimates_are_what_happens_to_the_output_when_changes_are_small() {
    // One query head, one query that sees three tokens, the last its own.
    let (q, scale) = ([1.0, 0.5], 0.7);
    let k = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5f32];
    let v = [1.0, 2.0, -1.0, 0.0, 0.5, -2.0f32];
    let window = RateWindow { q: &q, group: 1, k: &k, v: &v, k_mean: &[0.0; 2], v_mean: &[0.0; 2], scale };
    let got =
        window.distortion(&[TierError::Dropped, TierError::Coded(1e-4), TierError::Coded(0.0)]).unwrap();
    let attend = |k: &[f32], v: &[f32], without: Option<usize>| {
        let weight = |i: usize| {
            let dot = f64::from(q[0] * k[2 * i] + q[1] * k[2 * i + 1]);
            if Some(i) == without { 0.0 } else { (dot * f64::from(scale)).exp() }
        };
        let total: f64 = (0..3).map(weight).sum();
        [0, 1].map(|c| (0..3).map(|i| weight(i) / total * f64::from(v[2 * i + c])).sum::<f64>())
    };
    let change = |a: [f64; 2]| {
        let o = attend(&k, &v, None);
        (a[0] - o[0]).powi(2) + (a[1] - o[1]).powi(2)
    };
    // The part that stands for queries to come, which is not in one query's change.
    let p = |i: usize| {
        let logits: Vec<f64> =
            (0..3).map(|j| f64::from((q[0] * k[2 * j] + q[1] * k[2 * j + 1]) * scale).exp()).collect();
        logits[i] / logits.iter().sum::<f64>()
    };
    let floor = 0.05 * (0..3).map(|i| p(i) * p(i)).sum::<f64>() / 3.0;
    let o = attend(&k, &v, None);
    for i in 0..3 {
        let apart = (f64::from(v[2 * i]) - o[0]).powi(2) + (f64::from(v[2 * i + 1]) - o[1]).powi(2);
        let dropped = change(attend(&k, &v, Some(i))) + floor * apart;
        assert!((f64::from(got[3 * i]) / dropped - 1.0).abs() < 1e-4, "{} {dropped}", got[3 * i]);
        assert_eq!(got[3 * i + 2], 0.0);
        // Noise of either sign along each coordinate, of the variance that the tier has: its mean is the estimate.
        let mut coded = 0.0;
        for (on_key, squared) in [
            (true, k[2 * i].powi(2) + k[2 * i + 1].powi(2)),
            (false, v[2 * i].powi(2) + v[2 * i + 1].powi(2)),
        ] {
            for c in 0..2 {
                for sign in [-1.0, 1.0f32] {
                    let noise = sign * (1e-4 * squared / 2.0).sqrt();
                    let (mut k, mut v) = (k, v);
                    if on_key {
                        k[2 * i + c] += noise;
                    } else {
                        v[2 * i + c] += noise;
                    }
                    coded += change(attend(&k, &v, None)) / 2.0;
                }
            }
        }
        let scaled = coded * (1.0 + floor / p(i).powi(2));
        assert!((f64::from(got[3 * i + 1]) / scaled - 1.0).abs() < 0.01, "{} {scaled}", got[3 * i + 1]);
    }
    let short = RateWindow { v: &v[1..], ..window };
    assert!(short.distortion(&[TierError::Dropped]).is_err());
    let bad = [f32::NAN; 6];
    assert!(RateWindow { k: &bad, ..window }.distortion(&[TierError::Dropped]).is_err());
}

#[test]
fn any_scores_may_feed_it() {
    let tiers = [TierError::Dropped, TierError::Coded(0.25), TierError::Coded(0.0)];
    assert_eq!(distortion_of_scores(&[2.0, 0.0], &tiers).unwrap(), [2.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
    assert!(distortion_of_scores(&[-1.0], &tiers).is_err());
}

#[test]
fn pages_are_of_one_tier() {
    let tiers = [2, 1, 0, 2, 2, 1, 0, 2, 2];
    let pages = TierPages::new(&tiers, Some(0), 2, 7);
    assert_eq!(pages.tokens, [1, 5, 0, 3, 4, 7, 8]);
    let headers: Vec<_> = pages.pages.iter().map(|p| (p.tier, p.last, p.first)).collect();
    assert_eq!(headers, [(1, 1, 0), (2, 1, 2), (2, 1, 4), (2, 0, 6)]);
    assert!(pages.pages.iter().all(|p| p.generation == 7));
    assert_eq!(size_of_val(&pages.pages[0]), 8);
    // Token 4 loses least.
    let mut distortion = [9.0, 5.0, 0.0].repeat(9);
    distortion[3 * 4 + 1] = 1.0;
    let mut filled = tiers;
    whole_pages(&mut filled, &[0, 10, 20], &distortion, 0..9, 2);
    assert_eq!(filled, [2, 1, 0, 2, 1, 1, 0, 2, 2]);
}

/// Costs that do not fall, distortions of some tokens, and how many are fixed.
type Group = (Vec<u32>, Vec<f32>, (usize, usize));

fn groups() -> impl Strategy<Value = Vec<Group>> {
    let one = (1usize..5, 0usize..12).prop_flat_map(|(tiers, tokens)| {
        let costs = prop::collection::vec(0u32..12, tiers).prop_map(|mut costs| {
            costs.sort_unstable();
            costs
        });
        let number = prop_oneof![3 => (0u32..16).prop_map(|x| x as f32 / 4.0), 1 => 0f32..100.0];
        (costs, prop::collection::vec(number, tiers * tokens), (0usize..3, 0usize..3))
    });
    prop::collection::vec(one, 1..4)
}

/// The least distortion for each budget, by trying all.
fn optimum(groups: &[RateGroup<'_>], budget: usize) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; budget + 1];
    best[0] = 0.0;
    for group in groups {
        let tiers = group.costs.len();
        let tokens = group.distortion.len() / tiers;
        for token in 0..tokens {
            let fixed = token < group.fixed.0 || token + group.fixed.1 >= tokens;
            let mut next = vec![f64::INFINITY; budget + 1];
            for tier in if fixed { tiers - 1..tiers } else { 0..tiers } {
                let (cost, d) =
                    (group.costs[tier] as usize, f64::from(group.distortion[token * tiers + tier]));
                for spent in cost..=budget {
                    next[spent] = next[spent].min(best[spent - cost] + d);
                }
            }
            best = next;
        }
    }
    for spent in 1..=budget {
        best[spent] = best[spent].min(best[spent - 1]);
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn budgets_hold_and_more_is_never_worse(groups in groups()) {
        let groups: Vec<RateGroup<'_>> = groups
            .iter()
            .map(|(costs, distortion, fixed)| RateGroup { costs, distortion, fixed: *fixed, refresh: None })
            .collect();
        let best = optimum(&groups, 200);
        let worst_step = groups.iter().flat_map(|g| g.distortion).fold(0f32, |m, d| m.max(*d));
        let mut last = f64::INFINITY;
        for budget in 0..=200u64 {
            let Ok(got) = allocate(&groups, budget) else {
                prop_assert!(best[budget as usize].is_infinite());
                continue;
            };
            prop_assert!(got.cost <= budget);
            prop_assert!(got.distortion <= last + 1e-4, "{} after {last} at {budget}", got.distortion);
            last = got.distortion;
            let optimum = best[budget as usize];
            prop_assert!(got.distortion >= optimum - 1e-3);
            // The Lagrangian misses the optimum by less than one token's step.
            prop_assert!(got.distortion <= optimum + f64::from(worst_step) + 1e-3, "{} {optimum}", got.distortion);
            for (group, tiers) in groups.iter().zip(&got.tiers) {
                for (token, &tier) in tiers.iter().enumerate() {
                    let fixed = token < group.fixed.0 || token + group.fixed.1 >= tiers.len();
                    prop_assert!(!fixed || usize::from(tier) == group.costs.len() - 1);
                }
            }
        }
    }
}
