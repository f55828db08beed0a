//! Recipes for tokens against outputs of kvpress and of the methods' own repositories (`golden/kvpress`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::Pairing;
use tether_rope::{Angles, TokenRope};
use tether_score::tokens::{BlockLikeness, HeadScores, RecordedTokens, TokenObservation};
use tether_testing::{Golden, Tolerance, assert_close, golden_json};
use tethercache::tokens::{
    LayerContext, SequenceState, StoredKeys, TokenPlan, TokenPlanner, TokenRecipe, kept_heads,
};

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
    let turn = LayerContext { layer, layers: 8, seen: seen.tokens(), decoding: false };
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

/// One case: scores and kept sets where the file has them, and keys and values as they are after edits and moves.
fn check(case: &str, recipe: &str, overrides: &[&str], layer: usize) {
    for seed in 0..2 {
        // The full attention and the output projection were recorded for seed 0 only.
        if seed == 1 && (case.starts_with("observed_attention") || case.starts_with("criticalkv")) {
            continue;
        }
        let name = format!("kvpress/{case}_seed{seed}.safetensors");
        let golden = Golden::load(&name);
        let seen = inputs(seed);
        let plan = plan_of(recipe, overrides, layer, &seen);
        let scores = plan.scores.as_ref().unwrap();
        if golden.has("scores") {
            assert_scores(&name, scores, &golden);
        }
        let heads = plan.keep.heads();
        let kept: Vec<Vec<i64>> = if golden.has("keep_mask") {
            let mask = golden.integers("keep_mask");
            let rows = mask.chunks_exact(mask.len() / heads);
            rows.map(|row| (0..).zip(row).filter(|(_, m)| **m != 0).map(|(t, _)| t).collect()).collect()
        } else {
            let kept = golden.integers("kept_sorted");
            kept.chunks_exact(kept.len() / heads).map(<[i64]>::to_vec).collect()
        };
        for (head, kept) in kept.iter().enumerate() {
            assert_kept(&name, plan.keep.head(head), kept, Some(scores.head(head)));
        }
        if golden.has("k_compressed") {
            let rope =
                TokenRope::from_frequencies(Pairing::Half, seen.frequencies().unwrap().to_vec()).unwrap();
            // The reference rounds angles to `f32`: 2^-17 for 200 radians, times a channel of up to 8, and once more for the raw keys.
            for (stored, angles, limit) in [
                (StoredKeys::PostRope, Angles::Rounded, 1e-5),
                (StoredKeys::PostRope, Angles::Exact, 1e-4),
                (StoredKeys::PreRope, Angles::Exact, 2e-4),
            ] {
                let heads = kept_heads(&plan, &seen, Some(&rope), stored, angles).unwrap();
                let keys: Vec<f32> = heads.iter().flat_map(|h| h.keys.clone()).collect();
                let values: Vec<f32> = heads.iter().flat_map(|h| h.values.clone()).collect();
                assert_close(&name, &keys, &golden.f32("k_compressed"), Tolerance { abs: limit, rel: 0.0 });
                assert_close(&name, &values, &golden.f32("v_compressed"), Tolerance { abs: 1e-5, rel: 0.0 });
            }
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
        ("keydiff_r50", "keydiff", &[]),
        ("observed_attention_r50", "observed-attention", &[]),
        ("expected_attention_r50", "expected-attention", &[]),
        (
            "expected_attention_nocov_eps_r50",
            "expected-attention",
            &["score.covariance=false", "score.epsilon=0.02"],
        ),
        ("lagkv_lag32_r50", "lagkv", &["score.lag=32"]),
        ("criticalkv_snapkv_w32_r50", "criticalkv", &["score.base.window=32"]),
        ("chunkkv_snapkv_w32_c20_r50", "chunkkv", &["score.window=32"]),
        ("adakv_snapkv_w32_a20_r50", "adakv", &["score.window=32"]),
    ] {
        check(case, recipe, overrides, 3);
    }
}

#[test]
fn pyramids_are_those_of_kvpress() {
    check("pyramidkv_w32_layer0_r50", "pyramidkv", &["score.window=32"], 0);
    check("pyramidkv_w32_layer7_r50", "pyramidkv", &["score.window=32"], 7);
    let cases = golden_json("kvpress/cases.json");
    let table = cases["pyramid_budgets_w32_beta20_8layers"].as_object().unwrap();
    assert_eq!(table.len(), 24);
    for (name, expected) in table {
        let (removed, seen) = name.strip_prefix('r').unwrap().split_once("_L").unwrap();
        let kept = format!("budget.ratio={}", 1.0 - removed.parse::<f64>().unwrap());
        let planner = planner("pyramidkv", &["score.window=32", &kept]);
        let turn = |layer| LayerContext { layer, layers: 8, seen: seen.parse().unwrap(), decoding: false };
        let got: Vec<usize> = (0..8).map(|layer| planner.kept(turn(layer)).unwrap()).collect();
        assert_eq!(serde_json::json!(got), *expected, "{name}");
    }
}

#[test]
fn keys_turn_and_values_merge_as_kvpress() {
    check("rerotate_streamingllm_r50", "streaming-llm", &[], 3);
    check("rerotate_keydiff_r50", "keydiff", &["position.kind=contiguous"], 3);
    check("merging_knorm_r50", "merging", &[], 3);
}

#[test]
fn query_heads_keep_as_the_snapkv_repository() {
    for seed in 0..2 {
        for (pool, name) in [("mean", "avgpool"), ("max", "maxpool")] {
            let name = format!("kvpress/official_snapkv_{name}_seed{seed}.safetensors");
            let golden = Golden::load(&name);
            let pool = format!("score.pool={pool}");
            let overrides = ["score.window=32", "score.heads=separate", "score.reduce=sum", &pool];
            let plan = plan_of("snapkv", &overrides, 3, &inputs(seed));
            let scores = plan.scores.unwrap();
            let prefix = golden.tensor("scores_prefix").shape()[1];
            let kept = golden.integers("kept_sorted");
            for (head, kept) in kept.chunks_exact(kept.len() / 8).enumerate() {
                let expected = &golden.f32("scores_prefix")[head * prefix..][..prefix];
                assert_near(&name, &scores.head(head)[..prefix], expected, 1e-5);
                assert_kept(&name, plan.keep.head(head), kept, Some(scores.head(head)));
            }
        }
    }
}

#[test]
fn windows_are_those_of_the_windowkv_repository() {
    let cases = golden_json("kvpress/cases_official.json");
    for seed in 0..2 {
        for (task, name) in [("question-answering", "max"), ("aggregation", "average")] {
            let name = format!("official_windowkv_{name}_seed{seed}");
            let golden = Golden::load(&format!("kvpress/{name}.safetensors"));
            let case = &cases[&name];
            let task = format!("score.task={task}");
            let overrides = ["budget.tokens=128", "budget.layers.shared=2", &task];
            let planner = planner("window-kv", &overrides);
            let seen = inputs(seed);
            let turn = |layer| LayerContext { layer, layers: 8, seen: seen.tokens(), decoding: false };
            let suffix = case["suffix"].as_i64().unwrap();
            // The text is longer than any layer's budget, but for the first two of 256 tokens.
            let budgets: Vec<i64> = (0..8)
                .map(|l| planner.kept(LayerContext { seen: 4096, ..turn(l) }).unwrap() as i64 - suffix)
                .collect();
            assert_eq!(budgets, golden.integers("layers_budget"), "{name}");
            let mut state = SequenceState::default();
            for layer in 0..2 {
                let plan = planner.plan(turn(layer), &seen, &mut state).unwrap();
                assert_eq!(plan.scores.is_some(), layer == 0 && plan.keep.uniform_len() != Some(plan.tokens));
                let mut kept = golden.integers(&format!("kept_cache_order.layer{layer}")).to_vec();
                kept.sort_unstable();
                for head in plan.keep.sets() {
                    assert_kept(&name, head, &kept, None);
                }
            }
            // The next group chooses for itself, from a smaller budget.
            let next = planner.plan(turn(2), &seen, &mut state).unwrap();
            assert!(next.keep.uniform_len().unwrap() <= 165 + suffix as usize, "{name}");
        }
    }
}

#[test]
fn blocks_are_those_of_the_rekv_repository() {
    for seed in 0..2 {
        for chunk in 1..=2 {
            let name = format!("kvpress/official_rekv_topk4_chunk{chunk}_seed{seed}.safetensors");
            let golden = Golden::load(&name);
            let seen = inputs(seed);
            let likeness = BlockLikeness { block: 16, init: 16, question: 32 }.of_blocks(&seen).unwrap();
            assert_near(&name, &likeness, &golden.f32("similarity"), 1e-5);
            let chunk = format!("select.chunk={chunk}");
            let plan = plan_of("rekv", &["select.top=4", &chunk], 3, &seen);
            let blocks = golden.integers("retrieved").iter().flat_map(|b| 16 + 16 * b..32 + 16 * b);
            let tokens = seen.tokens() as i64;
            let kept: Vec<i64> = (0..16).chain(blocks).chain(tokens - 32..tokens).collect();
            for head in plan.keep.sets() {
                assert_kept(&name, head, &kept, None);
            }
        }
    }
}

#[test]
fn the_elastic_repository_is_reproduced_with_its_quirks() {
    let cases = golden_json("kvpress/cases_official.json");
    for seed in 0..2 {
        for removed in [50, 20] {
            let name = format!("official_elastic_r{removed}_seed{seed}");
            let golden = Golden::load(&format!("kvpress/{name}.safetensors"));
            let case = &cases[&name];
            let number = |key: &str| case[key].as_i64().unwrap();
            let kept = format!("budget.ratio={}", 1.0 - case["ratio"].as_f64().unwrap());
            let start = format!("budget.sink={}", number("start_size"));
            let distance = format!("decode.place.distance={}", number("distance"));
            let official = ["select.kind=elastic-official", "edit.official=true"];
            let overrides = [&kept, &start, &distance, official[0], official[1]];
            let planner = planner("elastic-cache", &overrides);
            let mut state = SequenceState::default();
            let sums = golden.f32("score_sum");
            for layer in 0..2 {
                let side = |side: &str| golden.f32(&format!("{side}.{layer}"));
                let seen = RecordedTokens::new((4, 4), 96, (16, 16), side("k_in"), side("v_in")).unwrap();
                let of_layer = &sums[layer * 96..][..96];
                let seen = seen.with_attention_sums(of_layer.repeat(4)).unwrap();
                if golden.has("attn.0") {
                    let mut columns = [0f64; 96];
                    for row in side("attn").chunks_exact(96) {
                        columns.iter_mut().zip(row).for_each(|(c, &x)| *c += f64::from(x) / 4.0);
                    }
                    let columns: Vec<f32> = columns.iter().map(|&c| c as f32).collect();
                    assert_near(&name, of_layer, &columns, 1e-5);
                }
                let turn = LayerContext { layer, layers: 2, seen: 96, decoding: false };
                let plan = planner.plan(turn, &seen, &mut state).unwrap();
                let heads = kept_heads(&plan, &seen, None, StoredKeys::PostRope, Angles::Exact).unwrap();
                let keys: Vec<f32> = heads.iter().flat_map(|h| h.keys.clone()).collect();
                let values: Vec<f32> = heads.iter().flat_map(|h| h.values.clone()).collect();
                let close = Tolerance { abs: 1e-5, rel: 0.0 };
                assert_close(&name, &keys, &side("k_out"), close);
                assert_close(&name, &values, &side("v_out"), close);

                // Generation: a token more, and one less once the cache exceeds its share.
                let after = number("n_after_prefill") as usize;
                assert_eq!(plan.keep.uniform_len(), Some(after), "{name}");
                let at = |tokens: usize, total: usize, state: &mut SequenceState| {
                    let seen = RecordedTokens::new(
                        (4, 4),
                        tokens,
                        (1, 1),
                        vec![0.0; 4 * tokens],
                        vec![0.0; 4 * tokens],
                    );
                    let turn = LayerContext { layer, layers: 2, seen: total, decoding: true };
                    planner.plan(turn, &seen.unwrap(), state).unwrap().keep
                };
                let first = at(after + 1, 97, &mut state);
                assert_eq!(first.uniform_len(), Some(number("n_gen_out") as usize), "{name}");
                let full = after + 2;
                let next = at(full + 1, 97, &mut state);
                let gone = next.evicted(0, full + 1);
                assert_eq!(gone[0], number("gen_removed_index") as u32, "{name}");
            }
        }
    }
}
