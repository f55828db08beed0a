//! Recipes for tokens against outputs of kvpress and of the methods' own repositories (`golden/kvpress`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_score::tokens::{HeadScores, RecordedTokens};
use tether_testing::Golden;
use tethercache::tokens::{LayerTurn, SequenceState, TokenPlan, TokenPlanner, TokenRecipe};

fn inputs(seed: usize) -> RecordedTokens {
    let golden = Golden::load(&format!("kvpress/inputs_seed{seed}.safetensors"));
    let tokens = golden.tensor("k_post").shape()[1];
    let seen = RecordedTokens::new((8, 2), tokens, (64, 64), golden.f32("k_post"), golden.f32("v"))
        .and_then(|s| s.with_raw_keys(golden.f32("k_pre")))
        .and_then(|s| s.with_queries(golden.f32("q_post")))
        .and_then(|s| s.with_raw_queries(golden.f32("q_pre")))
        .unwrap()
        .with_frequencies(golden.f32("inv_freq").into_iter().map(f64::from).collect());
    if golden.has("o_proj_weight") {
        return seen.with_output_projection(golden.f32("o_proj_weight")).unwrap();
    }
    seen
}

fn planner(recipe: &str, overrides: &[&str]) -> TokenPlanner {
    TokenPlanner::new(TokenRecipe::named(recipe).unwrap().with_overrides(overrides).unwrap()).unwrap()
}

fn plan_of(recipe: &str, overrides: &[&str], layer: usize, seen: &RecordedTokens) -> TokenPlan {
    use tether_score::tokens::TokenObservation;
    let turn = LayerTurn { layer, layers: 8, seen: seen.tokens() };
    planner(recipe, overrides).plan(turn, seen, &mut SequenceState::default()).unwrap()
}

/// Relative to the value, with a floor for those that are 0.
fn assert_near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (g, e)) in got.iter().zip(expected).enumerate() {
        let limit = tolerance * e.abs().max(1e-6);
        assert!((g - e).abs() <= limit, "{what}, number {at}: {g} for {e}");
    }
}

/// The same tokens, but for a swap of two whose scores are closer than 1e-6.
fn assert_kept(what: &str, got: &[u32], expected: &[i64], scores: Option<&[f32]>) {
    let expected: Vec<u32> = expected.iter().map(|&t| t as u32).collect();
    assert!(got.is_sorted(), "{what}");
    assert_eq!(got.len(), expected.len(), "{what}");
    let only = |a: &[u32], b: &[u32]| a.iter().filter(|t| !b.contains(t)).copied().collect::<Vec<_>>();
    let (ours, theirs) = (only(got, &expected), only(&expected, got));
    for (a, b) in ours.iter().zip(&theirs) {
        let scores = scores.unwrap_or_else(|| panic!("{what}: {got:?} for {expected:?}"));
        let (a, b) = (scores[*a as usize], scores[*b as usize]);
        assert!((a - b).abs() < 1e-6, "{what}: {ours:?} for {theirs:?}, scores {a} and {b}");
    }
}

fn assert_scores(what: &str, scores: &HeadScores, golden: &Golden) {
    let expected = golden.tensor("scores");
    assert_eq!([scores.heads(), scores.tokens()], expected.shape(), "{what}");
    assert_near(what, scores.values(), &expected.to_f32_vec(), 1e-5);
}

/// One case: scores where the file has them, kept sets, and kept keys and values where nothing edits or moves them.
fn check(case: &str, recipe: &str, overrides: &[&str], layer: usize) {
    for seed in 0..2 {
        let name = format!("kvpress/{case}_seed{seed}.safetensors");
        if seed == 1 && case.starts_with("observed_attention") {
            continue;
        }
        let mut overrides = overrides.to_vec();
        if case.starts_with("criticalkv") && seed == 1 {
            // The output projection was recorded for seed 0 only.
            continue;
        }
        overrides.push("name=\"golden\"");
        let golden = Golden::load(&name);
        let seen = inputs(seed);
        let plan = plan_of(recipe, &overrides, layer, &seen);
        let scores = plan.scores.as_ref().unwrap();
        if golden.has("scores") {
            assert_scores(&name, scores, &golden);
        }
        let kept = golden.integers("kept_sorted");
        for (head, kept) in kept.chunks_exact(kept.len() / plan.keep.heads()).enumerate() {
            assert_kept(&name, plan.keep.head(head), kept, Some(scores.head(head)));
        }
    }
}

#[test]
fn recipes_score_and_keep_as_kvpress() {
    for (case, recipe, overrides) in [
        ("snapkv_w32_k5_r50", "snapkv", &["score.window=32"][..]),
        ("snapkv_w64_k7_r75", "snapkv", &["score.kernel=7", "budget.ratio=0.25"]),
        ("streamingllm_r50", "streaming-llm", &[]),
        ("tova_r50", "tova", &[]),
        ("knorm_r50", "knorm", &[]),
    ] {
        check(case, recipe, overrides, 3);
    }
}
