//! Merging and compensation on numbers worked by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_edit::EditError;
use tether_edit::tokens::{Compensation, Merge, MergeNearest, MergeSimilar, apply_merges};

#[test]
fn evicted_tokens_join_the_nearest_one_between_the_ends() {
    // Five tokens, the first and the last apart: 0, 2 and 4 stay.
    let merges = MergeNearest::default().plan(0, 5, &[0, 2, 4], 1, 1);
    assert_eq!(merges, [Merge { head: 0, into: 2, from: vec![(1, 1.0), (3, 1.0)], keys: true }]);
    let mut keys: Vec<f32> = vec![1.0, 2.0, 4.0, 9.0, 100.0];
    let mut values = keys.clone();
    apply_merges(&mut keys, &mut values, 5, (1, 1), &merges).unwrap();
    assert_eq!(keys, [1.0, 2.0, 5.0, 9.0, 100.0]);
    assert_eq!(values, keys);
    // Equally near: the earlier one. Nothing between stays: nothing merges.
    let between = MergeNearest::default().plan(0, 7, &[0, 1, 3, 6], 1, 1);
    assert_eq!(between[0].from, [(2, 1.0)]);
    assert_eq!(between[1].from, [(4, 1.0), (5, 1.0)]);
    assert!(MergeNearest::default().plan(0, 5, &[0, 4], 1, 1).is_empty());
    assert!(MergeNearest::default().plan(0, 3, &[0, 1, 2], 1, 1).is_empty());
}

#[test]
fn merging_conserves_the_sum_of_all_members() {
    let tokens = 40;
    let data: Vec<f32> = (0..tokens).map(|t| ((t * 37) % 23) as f32 - 11.0).collect();
    let kept: Vec<u32> = (0..tokens as u32).filter(|t| t % 3 == 0).collect();
    let merges = MergeNearest::default().plan(0, tokens, &kept, 1, 1);
    let (mut keys, mut values) = (data.clone(), data.clone());
    apply_merges(&mut keys, &mut values, tokens, (1, 1), &merges).unwrap();
    let members = |m: &Merge| m.from.len() as f32 + 1.0;
    let after: f32 = merges.iter().map(|m| members(m) * keys[m.into as usize]).sum();
    let before: f32 = merges
        .iter()
        .map(|m| m.from.iter().map(|f| data[f.0 as usize]).sum::<f32>() + data[m.into as usize])
        .sum();
    assert!((after - before).abs() < 1e-3, "{after} for {before}");
}

#[test]
fn values_join_the_most_similar_key() {
    // Token 2 points where token 0 does, token 3 against everything.
    let keys = [1.0, 0.0, 0.0, 1.0, 2.0, 0.0, -1.0, -1.0];
    let values = [3.0, 4.0, 1.0, 0.0, 0.0, 5.0, 7.0, 7.0];
    let merges = MergeSimilar::default().plan(1, &keys, &values, (2, 2), &[0, 1]).unwrap();
    let [merge] = merges.as_slice() else { panic!("{merges:?}") };
    assert_eq!((merge.head, merge.into, merge.keys, merge.from[0].0), (1, 0, false, 2));
    assert!((merge.from[0].1 - 0.5).abs() < 1e-6, "cosine 1, equal lengths");
    let strict = MergeSimilar { threshold: 1.0, fraction: 0.4 };
    assert!(strict.plan(0, &keys, &values, (2, 2), &[0, 1]).unwrap().is_empty(), "0.4 of 2 is none");
    for (editor, setting) in [
        (MergeSimilar { threshold: 2.0, fraction: 1.0 }, "edit.threshold"),
        (MergeSimilar { threshold: 0.0, fraction: -1.0 }, "edit.fraction"),
    ] {
        assert!(matches!(editor.validate(), Err(EditError::Setting { setting: s, .. }) if s == setting));
    }
    let outside = MergeSimilar::default().plan(0, &keys, &values, (2, 2), &[9]).unwrap_err();
    assert!(matches!(outside, EditError::NoSuchToken { token: 9, .. }), "{outside}");
}

#[test]
fn a_merge_that_does_not_fit_changes_nothing() {
    let mut keys = vec![1.0; 4];
    let mut values = vec![2.0; 4];
    let merges = [
        Merge { head: 0, into: 0, from: vec![(1, 1.0)], keys: true },
        Merge { head: 0, into: 1, from: vec![(4, 1.0)], keys: true },
    ];
    let e = apply_merges(&mut keys, &mut values, 4, (1, 1), &merges).unwrap_err();
    assert!(matches!(e, EditError::NoSuchToken { token: 4, tokens: 4, .. }), "{e}");
    assert_eq!((keys, values), (vec![1.0; 4], vec![2.0; 4]));
}

/// Attention of `q` over tokens with a logit bias each.
fn attend(q: &[f32], keys: &[Vec<f32>], values: &[f32], bias: &[f32]) -> f64 {
    let logit = |i: usize| {
        let dot: f64 = q.iter().zip(&keys[i]).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        (dot / (q.len() as f64).sqrt() + f64::from(bias[i])).exp()
    };
    let total: f64 = (0..keys.len()).map(logit).sum();
    (0..keys.len()).map(|i| logit(i) * f64::from(values[i])).sum::<f64>() / total
}

#[test]
fn one_token_stands_exactly_for_equal_keys() {
    let keys = [[0.5, -0.2], [1.0, 0.3], [1.0, 0.3], [1.0, 0.3], [-0.4, 0.1]].map(|k| k.to_vec());
    let values = [1.0, 2.0, 5.0, -3.0, 0.5];
    let flat: Vec<f32> = keys.concat();
    let token = Compensation::of(0, &flat, &values, (2, 1), &[1, 2, 3]).unwrap().unwrap();
    assert_eq!(token.count, 3);
    let q = [0.7, 1.9];
    let full = attend(&q, &keys, &values, &[0.0; 5]);
    let kept = [keys[0].clone(), keys[4].clone(), token.key.clone()];
    let got = attend(&q, &kept, &[1.0, 0.5, token.value[0]], &[0.0, 0.0, token.logit_bias()]);
    assert!((full - got).abs() < 1e-6, "{got} for {full}");
    assert_eq!(Compensation::of(0, &flat, &values, (2, 1), &[]).unwrap(), None);
    assert!(Compensation::of(0, &flat, &values, (2, 1), &[5]).is_err());
}

#[test]
fn different_keys_are_worth_no_less_than_their_mean() {
    // Jensen: the mean's exponential times the count is at most the sum of exponentials.
    let keys = [-1.0f32, 0.3, 2.0, 0.1];
    let token = Compensation::of(0, &keys, &[0.0; 4], (1, 1), &[0, 1, 2, 3]).unwrap().unwrap();
    let sum: f32 = keys.iter().map(|k| k.exp()).sum();
    assert!((token.key[0] + token.logit_bias()).exp() <= sum);
}

#[test]
fn tokens_that_leave_later_are_added() {
    let keys: Vec<f32> = (0..12).map(|x| x as f32 * 0.3).collect();
    let of = |evicted: &[u32]| Compensation::of(0, &keys, &keys, (2, 2), evicted).unwrap().unwrap();
    let mut grown = of(&[0, 4]);
    grown.absorb(&of(&[1])).unwrap();
    grown.absorb(&of(&[2, 5])).unwrap();
    let at_once = of(&[0, 1, 2, 4, 5]);
    assert_eq!(grown.count, 5);
    for (g, e) in grown.key.iter().zip(&at_once.key) {
        assert!((g - e).abs() < 1e-6, "{g} for {e}");
    }
    let other = Compensation { head: 0, count: 1, key: vec![0.0], value: vec![0.0, 0.0] };
    assert!(matches!(grown.absorb(&other), Err(EditError::Channels { what: "a key", .. })));
}
