//! Scorers and selectors of tokens on numbers worked by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::Pool;
use tether_score::ScoreError;
use tether_score::tokens::*;

const LN2: f32 = std::f32::consts::LN_2;

/// Deterministic numbers between -1 and 1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn request(kept: usize) -> ScoreRequest {
    ScoreRequest { layer: 0, kept }
}

fn each(heads: usize, kept: usize, sink: usize, recent: usize) -> HeadShares {
    let protected = Protected { sink, recent };
    HeadShares::Each(vec![HeadShare { kept, protected, merges: true }; heads])
}

fn near(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= 1e-6 * e.abs().max(1.0), "{got:?} for {expected:?}");
    }
}

#[test]
fn a_window_of_one_query_by_hand() {
    // exp of the logits: 1, 2, 1 and 1 for the query's own key.
    let keys = vec![0.0, LN2, 0.0, 0.0];
    let seen = RecordedTokens::new((1, 1), 4, (1, 1), keys, vec![0.0; 4]).unwrap();
    let seen = seen.with_queries(vec![1.0]).unwrap();
    let scorer = SnapKv { window: 1, kernel: 1, ..SnapKv::default() };
    let scores = scorer.score(&seen, request(2)).unwrap();
    near(scores.head(0), &[0.2, 0.4, 0.2, 1.4]);
    let kept = TopK {}.into_part().select(&scores, &each(1, 2, 0, 1)).unwrap();
    assert_eq!(kept.head(0), [1, 3]);
    assert_eq!(kept.evicted(0, 4), [0, 2]);
}

#[test]
fn smoothing_counts_zeros_for_means_and_nothing_for_maxima() {
    let row = [3.0, 0.0, 0.0, 6.0];
    assert_eq!(pooled(&row, 4, Pool::Mean(3)), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(pooled(&row, 4, Pool::Max(3)), [3.0, 3.0, 6.0, 6.0]);
    assert_eq!(pooled(&row, 4, Pool::None), row);
}

fn random_text(query_heads: usize, tokens: usize, seed: u64) -> RecordedTokens {
    let (kv_heads, dim) = (2, 8);
    RecordedTokens::new(
        (query_heads, kv_heads),
        tokens,
        (dim, dim),
        noise(kv_heads * tokens * dim, seed),
        noise(kv_heads * tokens * dim, seed + 1),
    )
    .and_then(|s| s.with_queries(noise(query_heads * tokens * dim, seed + 2)))
    .unwrap()
}

/// Causal attention in `f64`, `[query_heads, tokens, tokens]`.
fn attention(seen: &RecordedTokens) -> Vec<f64> {
    let (tokens, dim) = (seen.tokens(), seen.head_dim_k());
    let (q, k) = (seen.queries(tokens).unwrap(), seen.keys().unwrap());
    let group = seen.query_heads() / seen.kv_heads();
    let mut weights = Vec::new();
    for head in 0..seen.query_heads() {
        for i in 0..tokens {
            let q = &q[(head * tokens + i) * dim..][..dim];
            let exp = |j: usize| {
                let k = &k[(head / group * tokens + j) * dim..][..dim];
                let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                if j <= i { (dot / (dim as f64).sqrt()).exp() } else { 0.0 }
            };
            let row: Vec<f64> = (0..tokens).map(exp).collect();
            let total: f64 = row.iter().sum();
            weights.extend(row.into_iter().map(|w| w / total));
        }
    }
    weights
}

#[test]
fn reductions_are_those_of_the_whole_matrix() {
    for tokens in [1, 2, 63, 64, 65, 150] {
        let seen = random_text(4, tokens, tokens as u64);
        let full = attention(&seen);
        let column = |head: usize, rows: std::ops::Range<usize>, j: usize| -> f64 {
            rows.map(|i| full[(head * tokens + i) * tokens + j]).sum()
        };
        let sums = seen.accumulated_attention().unwrap();
        for (at, &got) in sums.iter().enumerate() {
            let expected = column(at / tokens, 0..tokens, at % tokens);
            assert!((f64::from(got) - expected).abs() < 1e-5 * expected.max(1.0), "{got} for {expected}");
        }
        let window = tokens.min(5);
        let rows = window_rows(&seen, window).unwrap();
        let mean = rows.mean_over_queries(tokens);
        for (at, &got) in mean.iter().enumerate() {
            let expected = column(at / tokens, tokens - window..tokens, at % tokens) / window as f64;
            assert!((f64::from(got) - expected).abs() < 1e-6, "{got} for {expected}");
        }
        // What the window gives the prefix and itself is everything.
        for row in rows.head(0).chunks_exact(tokens) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let sampled = sampled_rows(&seen, 7).unwrap();
        let last = sampled.head(3).chunks_exact(tokens).last().unwrap();
        for (j, &got) in last.iter().enumerate() {
            let expected = column(3, tokens - 1..tokens, j);
            assert!((f64::from(got) - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }
}

#[test]
fn query_heads_of_a_group_may_change_places() {
    let seen = random_text(4, 40, 5);
    let queries = seen.queries(40).unwrap().into_owned();
    let (a, b) = queries.split_at(queries.len() / 4);
    let (b, rest) = b.split_at(a.len());
    let swapped = [b, a, rest].concat();
    let other = random_text(4, 40, 5).with_queries(swapped).unwrap();
    for pool in [PoolKind::Mean, PoolKind::Max] {
        let scorer = SnapKv { window: 6, pool, ..SnapKv::default() };
        let scores = [&seen, &other].map(|s| scorer.score(s, request(20)).unwrap());
        near(scores[0].values(), scores[1].values());
        let sum = SnapKv { reduce: Reduction::Sum, ..scorer }.score(&seen, request(20)).unwrap();
        for (mean, sum) in scores[0].rows().zip(sum.rows()) {
            near(&sum[..34], &mean[..34].iter().map(|m| m * 6.0).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_queries_attended_to_is_averaged_over_those_that_saw_it() {
    // One head, all keys equal: row i spreads 1 / (i + 1) over its i + 1 tokens.
    let seen = RecordedTokens::new((1, 1), 3, (1, 1), vec![1.0; 3], vec![0.0; 3]).unwrap();
    let seen = seen.with_queries(vec![1.0; 3]).unwrap();
    let sums = AccumulatedAttention::default().score(&seen, request(2)).unwrap();
    near(sums.head(0), &[1.0 + 0.5 + 1.0 / 3.0, 0.5 + 1.0 / 3.0, 1.0 / 3.0]);
    let means = AccumulatedAttention { per_query: true, ..Default::default() };
    near(means.score(&seen, request(2)).unwrap().head(0), &[11.0 / 18.0, 5.0 / 12.0, 1.0 / 3.0]);
    let h2o = AccumulatedAttention { recent_share: 0.5, ..Default::default() };
    assert_eq!(h2o.protects(9), Protected { sink: 0, recent: 4 });
}

#[test]
fn equal_scores_keep_the_earlier_token_and_protected_ones_stay() {
    let scores = HeadScores::new(2, 5, vec![0.0, 1.0, 1.0, 1.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0]).unwrap();
    let top = TopK {}.into_part();
    let kept = top.select(&scores, &each(2, 2, 0, 0)).unwrap();
    assert_eq!(kept.sets(), [vec![1, 2], vec![0, 1]]);
    let kept = top.select(&scores, &each(2, 3, 1, 1)).unwrap();
    assert_eq!(kept.sets(), [vec![0, 1, 4], vec![0, 1, 4]]);
    // Where a budget does not hold what is protected: sinks first, then the most recent.
    let kept = top.select(&scores, &each(2, 3, 2, 4)).unwrap();
    assert_eq!(kept.sets(), [vec![0, 1, 4], vec![0, 1, 4]]);
    assert_eq!(top.select(&scores, &each(2, 9, 1, 1)).unwrap(), KeptIndices::all(2, 5));
    assert_eq!(top.select(&scores, &each(2, 0, 1, 1)).unwrap().total(), 0);
    let uneven = top.select(&scores, &each(1, 2, 0, 0)).unwrap_err();
    assert!(matches!(uneven, ScoreError::Count { expected: 2, got: 1, .. }), "{uneven}");
}

#[test]
fn pages_are_read_whole_and_the_protected_ones_first() {
    let scores =
        HeadScores::new(2, 10, [[1.0f32, 1.0, 1.0, 5.0, 5.0, 5.0, 3.0, 3.0, 3.0, 0.0]; 2].concat()).unwrap();
    let pages = Pages { size: 3 }.into_part();
    let select =
        |kept, sink, recent| pages.select(&scores, &each(2, kept, sink, recent)).unwrap().head(1).to_vec();
    // The last page is a token; then the best that fit.
    assert_eq!(select(4, 0, 1), [3, 4, 5, 9]);
    assert_eq!(select(6, 0, 1), [3, 4, 5, 9]);
    assert_eq!(select(7, 0, 1), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(select(7, 1, 1), [0, 1, 2, 3, 4, 5, 9]);
    assert_eq!(select(10, 0, 0).len(), 10);
    // A share below a page goes token by token.
    assert_eq!(select(2, 0, 1), [3, 9]);
    let rows = [
        HeadScores::new(1, 2, vec![1.0, 2.0]).unwrap(),
        HeadScores::new(1, 4, vec![4.0, 3.0, 2.0, 9.0]).unwrap(),
    ];
    let ragged = pages.select_ragged(&rows, &each(2, 3, 0, 1)).unwrap();
    assert_eq!(ragged.sets(), [vec![0, 1], vec![3]]);
    let together = HeadShares::Together { kept: 3, least: 1, protected: Protected::default() };
    assert!(matches!(pages.select(&scores, &together), Err(ScoreError::Count { .. })));
    assert!(matches!(pages.select_ragged(&rows, &together), Err(ScoreError::Count { .. })));
    assert!(Pages { size: 0 }.validate().is_err());
}

#[test]
fn heads_compete_for_a_layer_s_budget() {
    let scores = HeadScores::new(2, 4, vec![9.0, 8.0, 7.0, 6.0, 1.0, 5.0, 2.0, 3.0]).unwrap();
    let together = |least, protected| HeadShares::Together { kept: 2, least, protected };
    let select = |least, sink, recent| {
        let shares = together(least, Protected { sink, recent });
        TopK {}.into_part().select(&scores, &shares).unwrap()
    };
    assert_eq!(select(0, 0, 0).sets(), [vec![0, 1, 2, 3], vec![]]);
    assert_eq!(select(1, 0, 0).sets(), [vec![0, 1, 2], vec![1]]);
    assert_eq!(select(2, 0, 0).sets(), [vec![0, 1], vec![1, 3]]);
    assert_eq!(select(0, 1, 0).sets(), [vec![0, 1, 2], vec![0]]);
}

#[test]
fn chunks_are_whole_and_fit() {
    let scores = HeadScores::new(1, 10, (0..10u8).map(|t| f32::from((t / 3) % 2)).collect()).unwrap();
    let chunks = |kept, sink, recent| {
        let chosen = Chunks { length: 3 }.into_part().select(&scores, &each(1, kept, sink, recent));
        chosen.unwrap().head(0).to_vec()
    };
    // Chunks 0-2 and 6-8 score 0, 3-5 and 9 score 1.
    assert_eq!(chunks(5, 0, 0), [3, 4, 5, 9]);
    assert_eq!(chunks(3, 0, 0), [3, 4, 5]);
    assert_eq!(chunks(5, 1, 1), [0, 3, 4, 5, 9]);
    assert_eq!(chunks(2, 0, 0), [] as [u32; 0]);
}

#[test]
fn windows_before_a_suffix() {
    // 20 tokens before a suffix of 4: windows of 8, 8 and 4 tokens, the second best, then the first.
    let row: Vec<f32> = (0..24).map(|t| [2.0, 3.0, 1.0, 4.0][t / 8]).collect();
    let windows = |scores: &[f32], kept| {
        let scores = HeadScores::shared(2, scores).unwrap();
        let chosen = Windows { size: 8 }.into_part().select(&scores, &each(2, kept, 0, 4)).unwrap();
        assert_eq!(chosen.head(0), chosen.head(1));
        chosen.head(0).to_vec()
    };
    // A budget of 10: two windows leave.
    assert_eq!(windows(&row, 14), [8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23]);
    // The short window is the best one: under the budget.
    let last: Vec<f32> = (0..24).map(|t| [2.0, 3.0, 5.0, 4.0][t / 8]).collect();
    assert_eq!(windows(&last, 14), (16..24).collect::<Vec<u32>>());
    // The published rule would leave out the short window and keep 16 of 12: not here.
    assert_eq!(windows(&row, 16).len(), 12);
    assert_eq!(windows(&row, 4), [20, 21, 22, 23]);
    assert_eq!(windows(&row, 24), (0..24).collect::<Vec<u32>>());
    assert_eq!(window_groups(2048, 32, 8, 14), [2926, 2341, 1756, 1170]);
    assert_eq!(window_groups(100, 4, 8, 14), [100]);
}

#[test]
fn windows_are_worth_their_best_half_or_their_mean() {
    // Logits whose exponentials are 8 1 1 1 | 3 3 3 3 and 1 for the suffix, which asks with 1.
    let weights = [8.0f32, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 1.0];
    let keys: Vec<f32> = weights.iter().map(|w| w.ln()).collect();
    let seen = RecordedTokens::new((1, 1), 9, (1, 1), keys, vec![0.0; 9]).unwrap();
    let seen = seen.with_queries(vec![1.0]).unwrap();
    let total: f32 = weights.iter().sum();
    let scores = |task| {
        let scorer = WindowKv { window: 4, task, suffix: Some(1) };
        scorer.score(&seen, request(5)).unwrap().head(0)[..8].to_vec()
    };
    let shares = |a: f32, b: f32| [vec![a / total; 4], vec![b / total; 4]].concat();
    near(&scores(WindowTask::QuestionAnswering), &shares(4.5, 3.0));
    near(&scores(WindowTask::Aggregation), &shares(2.75, 3.0));
}

#[test]
fn runs_of_blocks_in_time_order() {
    // Blocks of one token, two at a time: means 5, 4 and 7 of the last one by itself.
    let scores = HeadScores::shared(1, &[1.0, 9.0, 4.0, 4.0, 7.0]).unwrap();
    let blocks = |top, chunk| {
        let selector = Blocks { size: 1, top, chunk }.into_part();
        let kept = selector.tokens(Protected::default(), 5).unwrap();
        selector.select(&scores, &each(1, kept, 0, 0)).unwrap().head(0).to_vec()
    };
    assert_eq!(blocks(2, 2), [4]);
    assert_eq!(blocks(2, 1), [1, 4]);
    assert_eq!(blocks(6, 2), [0, 1, 2, 3, 4]);
    let odd = Blocks { size: 1, top: 3, chunk: 2 }.validate().unwrap_err();
    assert!(matches!(odd, ScoreError::Setting { setting: "select.top", .. }), "{odd}");
}

#[test]
fn budgets_by_hand() {
    let budget = |ratio, round| Budget { ratio: Some(ratio), round, ..Budget::default() };
    assert_eq!(budget(0.29, Rounding::Down).average(100), 29);
    assert_eq!(budget(0.5, Rounding::Down).average(5), 2);
    assert_eq!(budget(0.5, Rounding::Up).average(5), 3);
    assert_eq!(budget(0.8, Rounding::Up).average(96), 77);
    let both = Budget { tokens: Some(10), ..budget(0.5, Rounding::Down) };
    assert_eq!((both.average(12), both.average(100)), (6, 10));
    assert_eq!(Budget::default().average(7), 7);
    for bad in [0.0, -1.0, 1.5, f64::NAN] {
        let e = budget(bad, Rounding::Down).validate().unwrap_err();
        assert!(matches!(e, ScoreError::Setting { setting: "budget.ratio", .. }), "{e}");
    }
}

fn profile(layers: usize, heads: usize) -> HeadProfile {
    let layer = |l: usize| LayerProfile {
        echo: noise(heads, 2 * l as u64),
        induction: noise(heads, 2 * l as u64 + 1),
        variance: noise(heads, 1000 + l as u64),
    };
    HeadProfile { layers: (0..layers).map(layer).collect(), ..HeadProfile::default() }
}

#[test]
fn retrieval_heads_are_those_of_both_lists() {
    let heads = profile(32, 8).retrieval_heads(0.14, 0.01);
    assert!((36..=39).contains(&heads.len()), "{}", heads.len());
    let shares = |kept, layer, least| {
        let profile = profile(32, 8);
        let razor = HeadBudget::Razor { induction: 0.14, echo: 0.01, least, divisor: 5 };
        let protected = Protected { sink: 4, recent: 1 };
        let (tokens, frames) = (1000, None);
        let request = ShareRequest {
            layer,
            layers: 32,
            heads: 8,
            tokens,
            seen: tokens,
            kept,
            protected,
            frames,
            profile: Some(&profile),
        };
        match razor.shares(request).unwrap() {
            HeadShares::Each(shares) => shares.into_iter().map(|s| s.kept).collect::<Vec<_>>(),
            HeadShares::Together { .. } => panic!("each head has a share"),
        }
    };
    let of_model = |kept, least| (0..32).flat_map(|l| shares(kept, l, least)).collect::<Vec<_>>();
    let own = of_model(None, 100);
    assert_eq!(own.iter().filter(|&&k| k == 1000).count(), heads.len());
    assert!(own.iter().all(|&k| k == 1000 || k == 204), "sinks and a fifth");
    assert!(of_model(None, 4000).iter().all(|&k| k == 1000), "a short text stays whole");
    for kept in [20, 50, 100, 200, 500, 999] {
        let total: usize = of_model(Some(kept), 100).iter().sum();
        assert!(total <= 256 * kept && total + 256 > 256 * kept, "{total} for {kept} a head");
    }
    let missing = HeadBudget::Razor { induction: 0.1, echo: 0.1, least: 0, divisor: 1 };
    let request = ShareRequest {
        layer: 0,
        layers: 1,
        heads: 1,
        tokens: 9,
        seen: 9,
        kept: None,
        protected: Protected::default(),
        frames: None,
        profile: None,
    };
    assert!(matches!(missing.shares(request), Err(ScoreError::Missing { what: "a head profile" })));
}

#[test]
fn profiles_of_another_form_or_model_are_refused() {
    let mut other = profile(2, 3);
    other.check(2, 3).unwrap();
    assert!(matches!(other.check(3, 3), Err(ScoreError::Count { expected: 3, got: 2, .. })));
    assert!(matches!(other.check(2, 4), Err(ScoreError::Count { expected: 4, got: 3, .. })));
    other.version = 2;
    assert!(matches!(other.check(2, 3), Err(ScoreError::Setting { value: 2.0, .. })));
    // Written by hand, without more than the numbers.
    let plain = r#"{ "layers": [{ "echo": [0.5], "induction": [0.25] }] }"#;
    let plain: HeadProfile = serde_json::from_str(plain).unwrap();
    plain.check(1, 1).unwrap();
}

#[test]
fn contextual_heads_keep_little_and_structural_ones_whole_frames() {
    let profile = profile(4, 4);
    let hack = HeadBudget::Hack { contextual: 0.5, share: 0.2 };
    let contextual = profile.contextual_heads(0.5).unwrap();
    assert_eq!(contextual.len(), 8);
    let mut total = 0;
    for layer in 0..4 {
        let request = ShareRequest {
            layer,
            layers: 4,
            heads: 4,
            tokens: 200,
            seen: 200,
            kept: Some(50),
            protected: Protected::default(),
            frames: Some([1, 5, 64]),
            profile: Some(&profile),
        };
        let HeadShares::Each(shares) = hack.shares(request).unwrap() else { panic!("each head has a share") };
        for (head, share) in shares.iter().enumerate() {
            total += share.kept;
            let little = contextual.contains(&(layer, head));
            assert_eq!(share.kept, if little { 10 } else { 90 });
            assert_eq!(share.merges, little);
            let frames = Protected { sink: 5, recent: 64 };
            assert_eq!(share.protected, if little { Protected::default() } else { frames });
        }
    }
    assert_eq!(total, 16 * 50);
}

#[test]
fn echoes_and_inductions_of_a_repeated_probe() {
    // Positions as keys and queries that see one key only: tokens a b a b, the third and fourth row look where the test says.
    let probe = |looks: [usize; 4]| {
        let one_hot = |i: usize, size: f32| (0..4).map(move |c| if c == i { size } else { 0.0 });
        let keys: Vec<f32> = (0..4).flat_map(|i| one_hot(i, 40.0)).collect();
        let queries: Vec<f32> = looks.iter().flat_map(|&i| one_hot(i, 40.0)).collect();
        let profile = echo_and_induction((1, 1, 4), &queries, &keys, None, 2).unwrap();
        (profile.echo[0], profile.induction[0])
    };
    // Row 2 (a): echo at 0, induction at 1. Row 3 (b): echo at 1, induction at 2.
    assert_eq!(probe([0, 0, 0, 1]), (1.0, 0.0));
    assert_eq!(probe([0, 0, 1, 2]), (0.0, 1.0));
    assert_eq!(probe([0, 0, 0, 2]), (0.5, 0.5));
    assert_eq!(probe([0, 0, 2, 3]), (0.0, 0.0));
    // A first token that draws everything leaves nothing.
    let keys = [1.0f32, 1.0, 1.0, 1.0];
    let drawn = echo_and_induction((1, 1, 1), &[9.0; 4], &keys, Some(&[20.0]), 2).unwrap();
    assert!(drawn.echo[0] < 1e-6 && drawn.induction[0] < 1e-6);
    let short = echo_and_induction((1, 1, 1), &[1.0; 2], &[1.0; 2], None, 2).unwrap_err();
    assert!(matches!(short, ScoreError::Setting { setting: "period", .. }), "{short}");
}

#[test]
fn stripes_vary_less_than_diagonals() {
    let stripes = [0.5, 0.25, 0.25].repeat(3);
    let diagonal = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    assert_eq!(column_variance(&stripes, 3), 0.0);
    assert!((column_variance(&diagonal, 3) - 2.0 / 9.0).abs() < 1e-7);
}

#[test]
fn probes_that_repeat_the_last_query_see_what_it_sees() {
    let seen = random_text(4, 12, 9);
    // A probe that stands where the last token stands, with a key that nobody looks at.
    let dim = seen.head_dim_k();
    let last = seen.queries(1).unwrap().into_owned();
    let unseen: Vec<f32> = (0..4).flat_map(|h| last[h * dim..][..dim].to_vec()).collect();
    let mean: Vec<f32> = (0..2)
        .flat_map(|h| {
            let (a, b) = (&unseen[2 * h * dim..][..dim], &unseen[(2 * h + 1) * dim..][..dim]);
            a.iter().zip(b).map(|(a, b)| -400.0 * (a + b)).collect::<Vec<_>>()
        })
        .collect();
    let probed = seen.clone().with_probes(last, mean).unwrap();
    let scores = DapQ { first: 0, last: 1, ..DapQ::default() }.score(&probed, request(6)).unwrap();
    let rows = window_rows(&seen, 1).unwrap();
    for head in 0..2 {
        let expected: Vec<f32> =
            rows.head(2 * head).iter().zip(rows.head(2 * head + 1)).map(|(a, b)| (a + b) / 2.0).collect();
        near(scores.head(head), &expected);
        assert!(scores.head(head).iter().sum::<f32>() <= 1.0 + 1e-5);
    }
    let missing = DapQ::default().score(&seen, request(6)).unwrap_err();
    assert!(matches!(missing, ScoreError::Missing { .. }), "{missing}");
}

fn grid(frames: u32, rows: u32, columns: u32) -> Vec<Option<GridPlace>> {
    let places = (0..frames * rows * columns).map(|t| GridPlace {
        frame: t / (rows * columns),
        row: t / columns % rows,
        column: t % columns,
    });
    places.map(Some).collect()
}

#[test]
fn what_stands_out_of_a_picture_is_salient() {
    let grid = grid(1, 5, 5);
    assert!(spatial_saliency(&grid, |_, _| 1.0).iter().all(|&s| s == 0.0));
    // One odd patch in the middle, orthogonal to all others.
    let saliency = spatial_saliency(&grid, |a, b| if (a == 12) == (b == 12) { 1.0 } else { 0.0 });
    for (t, &s) in saliency.iter().enumerate() {
        let (row, column) = (t / 5, t % 5);
        let expected = match (row, column) {
            (2, 2) => 1.0,
            (1..=3, 1..=3) => 1.0 / 8.0,
            _ => 0.0,
        };
        assert!((s - expected).abs() < 1e-6, "{s} at {row}, {column}");
    }
    assert_eq!(spatial_saliency(&[None], |_, _| 0.0), [0.0]);
}

#[test]
fn frames_that_repeat_the_last_one_leave_first() {
    // Three frames of two patches: the first is a copy of the last, the second is new; then two tokens of text.
    let (a, b, new) = ([1.0f32, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]);
    let keys = [a, b, new, new, a, b, [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]].concat();
    let places = [grid(3, 1, 2), vec![None; 2]].concat();
    let seen = RecordedTokens::new((1, 1), 8, (4, 4), keys.clone(), vec![0.0; 32])
        .and_then(|s| s.with_raw_keys(keys))
        .and_then(|s| s.with_queries(vec![0.1; 32]))
        .and_then(|s| s.with_grid(places))
        .unwrap();
    let base = SnapKv { window: 2, kernel: 1, ..SnapKv::default() }.into_part();
    let scores = StLite { base }.score(&seen, request(2)).unwrap();
    let row = scores.head(0);
    assert_eq!(&row[..2], [0.0, 0.0], "copies are gated out");
    assert!(row[2..].iter().all(|&s| s > 0.0), "{row:?}");
    // Patches of the last frame differ from their neighbour, those of the second do not.
    assert!(row[4] > row[2] && row[5] > row[3]);
    let all = StLite { base: Knorm {}.into_part() }.score(&seen, request(4)).unwrap();
    assert_eq!(all.tokens(), 8);
}

#[test]
fn a_page_is_worth_at_least_any_of_its_keys() {
    let seen = random_text(4, 50, 3);
    let scores = PageBounds { page: 8 }.score(&seen, request(20)).unwrap();
    let (q, k) = (seen.queries(1).unwrap(), seen.keys().unwrap());
    for (head, row) in scores.rows().enumerate() {
        for (t, &score) in row.iter().enumerate() {
            let key = &k[(head * 50 + t) * 8..][..8];
            let logit = |h: usize| q[h * 8..][..8].iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
            let total = (logit(2 * head) + logit(2 * head + 1)) / 8f32.sqrt();
            assert!(score >= total - 1e-5, "{score} below {total}");
            assert_eq!(score, row[t / 8 * 8], "a page has one score");
        }
    }
    assert_eq!(
        page_bounds(&[1.0, -2.0, 3.0, 4.0, 5.0, 0.0], 2, 2),
        [1.0, -2.0, 3.0, 4.0, 5.0, 0.0, 5.0, 0.0]
    );
}

#[test]
fn a_question_s_mean_logit() {
    let seen = random_text(4, 20, 4);
    let scores = QuestionGuided { question: 3 }.score(&seen, request(10)).unwrap();
    let (q, k) = (seen.queries(3).unwrap(), seen.keys().unwrap());
    for head in 0..2 {
        let key = &k[(head * 20 + 7) * 8..][..8];
        let logits = (2 * head..2 * head + 2).flat_map(|h| (0..3).map(move |i| (h, i)));
        let dot = |(h, i): (usize, usize)| {
            q[(h * 3 + i) * 8..][..8].iter().zip(key).map(|(q, k)| q * k).sum::<f32>()
        };
        let mean = logits.map(dot).sum::<f32>() / 6.0 / 8f32.sqrt();
        assert!((scores.head(head)[7] - mean).abs() < 1e-6);
    }
}

/// One query head over keys of two channels, and the query that comes after them.
fn asked(keys: &[[f32; 2]], query: [f32; 2]) -> RecordedTokens {
    let keys: Vec<f32> = keys.iter().chain([&[9.0, -3.0]]).flatten().copied().collect();
    let tokens = keys.len() / 2;
    let seen = RecordedTokens::new((1, 1), tokens, (2, 2), keys, vec![0.0; 2 * tokens]).unwrap();
    seen.with_queries(query.to_vec()).unwrap()
}

#[test]
fn importance_and_redundancy_by_hand() {
    let keys = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
    let of = |importance: f32, keys: &[[f32; 2]], query| {
        let scorer = ImportanceRedundancy { window: 1, kernel: 1, importance };
        scorer.score(&asked(keys, query), request(2)).unwrap().head(0)[..keys.len()].to_vec()
    };
    let near = |got: &[f32], want: &[f32]| {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(g, w)| assert!((g - w).abs() < 1e-6, "{got:?} for {want:?}"));
    };
    // The mean cosines are 1/3, 1/3 and 0.
    near(&of(0.0, &keys, [0.0, 2.0]), &[-0.368_117, -0.368_117, -0.263_767]);
    near(&of(1.0, &keys, [0.0, 2.0]), &[0.163_579, 0.163_579, 0.672_842]);
    near(&of(0.07, &keys, [0.0, 2.0]), &[-0.330_898, -0.330_898, -0.198_204]);
    // Where all keys are alike only attention tells, and a key alone is like no other.
    let alike = of(0.5, &[[2.0, 1.0]; 4], [1.0, 1.0]);
    near(&alike, &[alike[0]; 4]);
    near(&of(0.0, &[[2.0, 1.0]], [1.0, 1.0]), &[-1.0]);
    // A key of no length has no direction: it is like none of the others, and they are alike.
    let empty = of(0.0, &[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [1.0, 0.0]);
    assert!(empty[0] > empty[1] && empty[1] == empty[2], "{empty:?}");

    // The largest logit of a key head's query heads counts, and the largest of a neighbourhood.
    let keys: Vec<f32> = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [5.0, 5.0]].concat();
    let seen = RecordedTokens::new((2, 1), 5, (2, 2), keys, vec![0.0; 10]).unwrap();
    let seen = seen.with_queries(vec![2.0, 0.0, 0.0, 2.0]).unwrap();
    let scorer = ImportanceRedundancy { window: 1, kernel: 3, importance: 1.0 };
    let scores = scorer.score(&seen, request(2)).unwrap();
    let [high, low] = [2f32.sqrt().exp(), 1.0].map(|x| x / (2.0 * 2f32.sqrt().exp() + 2.0));
    near(&scores.head(0)[..4], &[high, high, high, low]);
}

#[test]
fn scores_that_cannot_be_ranked_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.0; 6];
        values[4] = bad;
        let e = HeadScores::new(2, 3, values).unwrap_err();
        assert!(matches!(e, ScoreError::NonFiniteToken { head: 1, token: 1, .. }), "{e}");
    }
    let mut keys = vec![1.0; 8];
    keys[5] = f32::NAN;
    let seen = RecordedTokens::new((1, 1), 4, (2, 2), keys, vec![0.0; 8]).unwrap();
    assert!(matches!(Knorm {}.score(&seen, request(2)), Err(ScoreError::NonFiniteToken { token: 2, .. })));
    let seen = seen.with_queries(vec![1.0; 2]).unwrap();
    assert!(matches!(Tova {}.score(&seen, request(2)), Err(ScoreError::NonFiniteToken { .. })));
    assert!(matches!(
        SnapKv { window: 2, ..SnapKv::default() }.score(&seen, request(2)),
        Err(ScoreError::Missing { what: "rotated queries" })
    ));
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused: Vec<(TokenScorer, &str)> = vec![
        (SnapKv { window: 0, ..SnapKv::default() }.into_part(), "score.window"),
        (SnapKv { kernel: 4, ..SnapKv::default() }.into_part(), "score.kernel"),
        (LagKv { lag: 1, sink: 0 }.into_part(), "score.lag"),
        (CriticalKv { first_stage: 2.0, ..CriticalKv::default() }.into_part(), "score.first_stage"),
        (
            ImportanceRedundancy { importance: 1.5, ..ImportanceRedundancy::default() }.into_part(),
            "score.importance",
        ),
        (PageBounds { page: 0 }.into_part(), "score.page"),
        (DapQ { first: 0, last: 0, ..DapQ::default() }.into_part(), "score.first + score.last"),
    ];
    for (scorer, name) in refused {
        match scorer.validate().unwrap_err() {
            ScoreError::Setting { setting, .. } => assert_eq!(setting, name),
            other => panic!("{other}"),
        }
    }
    let unknown = serde_json::from_str::<TokenScorer>(r#"{"kind":"snapkv","windo":3}"#).unwrap_err();
    assert!(unknown.to_string().contains("windo"), "{unknown}");
}
