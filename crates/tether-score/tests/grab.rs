//! Gated recall against the published code, its hand-worked example, and the literal form.

use proptest::prelude::*;
use tether_core::DType;
use tether_core::Moments;
use tether_score::{
    BatchStatistics, Diversity, GatedRecall, ScoreError, attention_mass, evenly_spaced, mean_logits,
    mean_query, temporal_diversity, top_k,
};
use tether_testing::{Golden, Op, assert_close, golden_json, literal_mean_logits, tolerance};

fn close(what: &str, got: &[f32], expected: &[f32]) {
    assert_close(what, got, expected, tolerance(Op::Score, DType::F32));
}

#[test]
fn matches_the_published_code() {
    let cases = golden_json("tethercache/unit_cases.json");
    let golden = Golden::load("tethercache/grab_unit.safetensors");
    let grab = cases["grab"].as_object().unwrap();
    assert_eq!(grab.len(), 6);
    for (name, case) in grab {
        let n = |key: &str| case[key].as_u64().unwrap() as usize;
        let (batch, heads, dim, frame, candidates, memory) = (n("B"), n("H"), n("D"), n("F"), n("n"), n("M"));
        let (q, k) = (golden.f32(&format!("{name}.q")), golden.f32(&format!("{name}.k")));
        let units: Vec<u64> =
            golden.integers(&format!("{name}.idx")).iter().map(|&i| u64::try_from(i).unwrap()).collect();
        let channels = heads * dim;
        let logits: Vec<Vec<f32>> = q
            .chunks_exact(q.len() / batch)
            .zip(k.chunks_exact(k.len() / batch))
            .map(|(q, k)| {
                let means: Vec<Moments> =
                    k.chunks_exact(frame * channels).map(|f| Moments::of_tokens(f, channels)).collect();
                let query = mean_query(q, heads, heads, dim).unwrap();
                mean_logits(&query, heads, dim, means.iter().map(|m| m.mean.as_slice())).unwrap()
            })
            .collect();
        let recall = GatedRecall {
            temperature: case["temp"].as_f64().unwrap() as f32,
            diversity: Some(Diversity::Temporal { alpha: case["alpha"].as_f64().unwrap() as f32 }),
        };
        let rows = logits.iter().map(|l| (l.as_slice(), units.as_slice()));
        let scores = recall.score_batch(rows, BatchStatistics::Mixed).unwrap();
        let flat = |part: fn(&tether_score::UnitScores) -> &Vec<f32>| -> Vec<f32> {
            scores.iter().flat_map(part).copied().collect()
        };
        let keep: Vec<usize> = if candidates <= memory {
            // The published code does not score what it need not choose among, and stores zeros.
            assert!(golden.f32(&format!("{name}.score")).iter().all(|&s| s == 0.0));
            (0..candidates).collect()
        } else {
            close(name, &flat(|s| &s.mass), &golden.f32(&format!("{name}.mass")));
            close(name, &flat(|s| &s.diversity), &golden.f32(&format!("{name}.div")));
            close(name, &scores[0].score, &golden.f32(&format!("{name}.score")));
            top_k(&scores[0].score, memory).unwrap()
        };
        let flags = golden.integers(&format!("{name}.keep"));
        let expected: Vec<usize> = (0..candidates).filter(|&i| flags[i] != 0).collect();
        assert_eq!(keep, expected, "{name}: kept candidates");
    }
}

#[test]
fn matches_the_example_worked_by_hand() {
    let mass = [0.5, 0.3, 0.2];
    let diversity = temporal_diversity(&[0, 1, 3], &mass).unwrap();
    close("diversity", &diversity, &[0.818_041, 0.696_735, 0.888_435]);
    let logits: Vec<f32> = mass.iter().map(|m: &f32| m.ln()).collect();
    let recall = GatedRecall { temperature: 1.0, diversity: Some(Diversity::Temporal { alpha: 0.35 }) };
    let scores = recall.score(&logits, &[0, 1, 3]).unwrap();
    close("score", &scores.score, &[0.786_314, 0.543_857, 0.510_952]);
    assert_eq!(top_k(&scores.score, 2).unwrap(), [0, 1]);
}

#[test]
fn samples_are_scored_by_themselves_unless_mixed() {
    let recall = GatedRecall { temperature: 0.1, diversity: None };
    let rows: [(&[f32], &[u64]); 2] = [(&[1.0, 0.0], &[0, 1]), (&[0.0, 1.0], &[0, 1])];
    let own = recall.score_batch(rows, BatchStatistics::PerSample).unwrap();
    assert_eq!([top_k(&own[0].score, 1).unwrap(), top_k(&own[1].score, 1).unwrap()], [[0], [1]]);
    let mixed = recall.score_batch(rows, BatchStatistics::Mixed).unwrap();
    assert_eq!(mixed[0].score, mixed[1].score);
    assert!((mixed[0].score[0] - 0.5).abs() < 1e-6);
}

#[test]
fn ties_go_to_the_lower_index_and_nan_is_refused() {
    assert_eq!(top_k(&[1.0, 3.0, 1.0, 3.0, 1.0], 3).unwrap(), [0, 1, 3]);
    assert_eq!(top_k(&[1.0, 2.0], 5).unwrap(), [0, 1]);
    let nan = top_k(&[0.0, f32::NAN], 1);
    assert!(matches!(nan, Err(ScoreError::NonFinite { candidate: 1, .. })), "{nan:?}");
    assert!(matches!(
        attention_mass(&[0.0, f32::INFINITY], 1.0),
        Err(ScoreError::NonFinite { candidate: 1, .. })
    ));
    assert!(matches!(attention_mass(&[0.0], 0.0), Err(ScoreError::Setting { .. })));
    assert!(matches!(attention_mass(&[0.0], f32::NAN), Err(ScoreError::Setting { .. })));
    let recall = GatedRecall { temperature: 1.0, diversity: Some(Diversity::Temporal { alpha: -1.0 }) };
    assert!(matches!(recall.score(&[0.0], &[0]), Err(ScoreError::Setting { .. })));
    assert!(matches!(mean_query(&[0.0; 6], 3, 2, 1), Err(ScoreError::Heads { .. })));
    assert!(matches!(mean_query(&[0.0; 6], 2, 2, 0), Err(ScoreError::Heads { .. })));
    assert!(matches!(mean_query(&[0.0; 7], 2, 1, 3), Err(ScoreError::Count { .. })));
    assert!(matches!(mean_logits(&[0.0; 2], 1, 2, [&[0.0f32; 3][..]]), Err(ScoreError::Count { .. })));
    let recall = GatedRecall { temperature: 1.0, diversity: None };
    assert!(matches!(recall.score(&[0.0], &[0, 1]), Err(ScoreError::Count { .. })));
}

#[test]
fn even_spacing_keeps_both_ends() {
    assert_eq!(evenly_spaced(12, 9), [0, 1, 3, 4, 6, 7, 8, 10, 11]);
    assert_eq!(evenly_spaced(3, 9), [0, 1, 2]);
    assert_eq!(evenly_spaced(7, 1), [0]);
    assert_eq!(evenly_spaced(5, 0), [0usize; 0]);
}

proptest! {
    #[test]
    fn factorised_equals_literal(
        heads in 1usize..4, group in 1usize..4, dim in 1usize..9, tokens in 1usize..20, frame in 1usize..8,
        candidates in 1usize..6, seed in any::<u64>(),
    ) {
        let mut state = seed | 1;
        let mut random = |len: usize| -> Vec<f32> {
            (0..len).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
            }).collect()
        };
        let q = random(tokens * heads * group * dim);
        let units: Vec<Vec<f32>> = (0..candidates).map(|_| random(frame * heads * dim)).collect();
        let views: Vec<&[f32]> = units.iter().map(Vec::as_slice).collect();
        let literal = literal_mean_logits(&q, &views, heads * group, heads, dim);
        let means: Vec<Moments> = units.iter().map(|u| Moments::of_tokens(u, heads * dim)).collect();
        let query = mean_query(&q, heads * group, heads, dim).unwrap();
        let factorised = mean_logits(&query, heads * group, dim, means.iter().map(|m| m.mean.as_slice())).unwrap();
        for (f, l) in factorised.iter().zip(&literal) {
            prop_assert!((f64::from(*f) - l).abs() <= 1e-6, "{f} for {l}");
        }
    }

    #[test]
    fn top_k_keeps_the_highest(scores in prop::collection::vec(-3i32..3, 0..40), k in 0usize..45) {
        let scores: Vec<f32> = scores.into_iter().map(|s| s as f32).collect();
        let kept = top_k(&scores, k).unwrap();
        prop_assert_eq!(kept.len(), k.min(scores.len()));
        prop_assert!(kept.windows(2).all(|w| w[0] < w[1]));
        for dropped in (0..scores.len()).filter(|i| !kept.contains(i)) {
            for &i in &kept {
                prop_assert!(scores[i] > scores[dropped] || (scores[i] == scores[dropped] && i < dropped));
            }
        }
    }

    #[test]
    fn even_spacing_is_ascending_without_repeats(n in 0usize..300, k in 0usize..40) {
        let picks = evenly_spaced(n, k);
        prop_assert_eq!(picks.len(), k.min(n));
        prop_assert!(picks.windows(2).all(|w| w[0] < w[1]));
        prop_assert!(picks.iter().all(|&p| p < n));
        if k >= 2 && n >= 2 {
            prop_assert_eq!((picks[0], picks[picks.len() - 1]), (0, n - 1));
        }
    }
}
