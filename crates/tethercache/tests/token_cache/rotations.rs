//! Sessions of models that turn keys in other ways than half-split pairs of one position.

use super::*;
use tether_rope::Yarn;
use tether_score::ScoreError;

/// What turns keys, or foresees how queries turn.
const TURNING: [(&str, &[&str]); 4] = [
    ("streaming-llm", &["budget.tokens=13"]),
    ("knorm", &["budget.tokens=9", "decode.every=5", "position.kind=contiguous"]),
    ("expected-attention", &["budget.ratio=0.4", "score.future=16"]),
    ("rekv", &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=2"]),
];

fn session(name: &str, overrides: &[&str], rope: TokenRope) -> TokenCache<Host> {
    made(name, overrides, rope).unwrap()
}

fn made(name: &str, overrides: &[&str], rope: TokenRope) -> Result<TokenCache<Host>, Error> {
    let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap();
    let facts = ModelInfo { rope: Some(rope), ..ModelInfo::default() };
    TokenCache::new(Host::new(), geometry(), recipe, facts)
}

/// Numbers of one token's heads, changed before a session gets them: queries or keys, and raw queries.
type Change = fn(Vec<f32>) -> Vec<f32>;

fn same(x: Vec<f32>) -> Vec<f32> {
    x
}

/// Channels of half-split pairs as channels of interleaved ones.
fn interleaved(x: Vec<f32>) -> Vec<f32> {
    let of_head = |head: &[f32]| (0..DIM).map(|c| head[c / 2 + c % 2 * DIM / 2]).collect::<Vec<f32>>();
    x.chunks_exact(DIM).flat_map(of_head).collect()
}

/// Attention of every token of a text, one text for all, and where each head's tokens stand in the end.
fn read(mut cache: TokenCache<Host>, turned: Change, raw: Change) -> (Vec<f32>, Vec<Vec<i32>>) {
    let (mut noise, sequence, mut out, mut seen) = (Noise(0x70), cache.start(), Vec::new(), 0);
    for tokens in [9, 31].into_iter().chain([1; 20]) {
        let positions: Vec<i32> = (seen..seen + tokens).map(|p| p as i32).collect();
        for layer in 0..LAYERS {
            let tensor = |x: &HostTensor, change: Change| {
                HostTensor::from_f32(x.shape(), change(x.to_f32_vec())).unwrap()
            };
            let q = noise.tensor(&[tokens, QUERY_HEADS, DIM]);
            let (k, v) = (noise.tensor(&[tokens, KV_HEADS, DIM]), noise.tensor(&[tokens, KV_HEADS, DIM]));
            let raw_q = tensor(&noise.tensor(&[tokens, QUERY_HEADS, DIM]), raw);
            let (q, k) = (tensor(&q, turned), tensor(&k, turned));
            let new =
                NewTokens { q: &q, k: &k, v: &v, raw_q: Some(&raw_q), positions: &positions, grid: None };
            out.extend(cache.extend(sequence, layer, &new).unwrap().to_f32_vec());
        }
        seen += tokens;
        if seen >= 40 {
            cache.evict(sequence).unwrap();
        }
        if seen == 50 {
            cache.recall(sequence).unwrap();
        }
    }
    let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
    (out, heads.map(|(l, h)| cache.positions(sequence, l, h).unwrap().to_vec()).collect())
}

/// Largest difference of the attention of two sessions.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn half() -> TokenRope {
    turning(&frequencies())
}

#[test]
fn interleaved_pairs_are_the_half_split_ones_in_another_order() {
    let pairs = TokenRope::from_frequencies(Pairing::Interleaved, frequencies()).unwrap();
    for (name, overrides) in TURNING {
        let (expected, stand) = read(session(name, overrides, half()), same, same);
        let (got, stands) = read(session(name, overrides, pairs.clone()), interleaved, interleaved);
        assert!(apart(&got, &expected) < 1e-5, "{name}: {}", apart(&got, &expected));
        assert_eq!(stands, stand, "{name}");
        // The wrong pairs would be seen.
        let (wrong, _) = read(session(name, overrides, half()), interleaved, interleaved);
        assert!(apart(&wrong, &expected) > 1e-3, "{name}: {}", apart(&wrong, &expected));
    }
}

/// Settings that stretch some of the few pairs here.
fn yarn() -> TokenRope {
    TokenRope::yarn(Pairing::Half, THETA, DIM, Yarn::new(4.0, 32)).unwrap()
}

#[test]
fn scaled_frequencies_and_the_attention_factor_are_those_of_the_model() {
    // A model without the factor whose queries and keys are longer by it.
    let longer: Change = |x| x.into_iter().map(|x| x * yarn().attention_factor()).collect();
    let stretched = TokenRope::from_frequencies(Pairing::Half, yarn().frequencies().to_vec()).unwrap();
    assert!(yarn().attention_factor() > 1.1 && yarn().frequencies() != frequencies());
    for (name, overrides) in TURNING {
        let (expected, stand) = read(session(name, overrides, stretched.clone()), same, longer);
        let (got, stands) = read(session(name, overrides, yarn()), same, same);
        assert!(apart(&got, &expected) < 1e-5, "{name}: {}", apart(&got, &expected));
        assert_eq!(stands, stand, "{name}");
        let (plain, _) = read(session(name, overrides, half()), same, longer);
        assert!(apart(&plain, &expected) > 1e-3, "{name}: {}", apart(&plain, &expected));
    }
    let (expected, _) = read(session(TURNING[2].0, TURNING[2].1, yarn()), same, same);
    let (without, _) = read(session(TURNING[2].0, TURNING[2].1, stretched), same, same);
    assert!(apart(&without, &expected) > 1e-3, "the factor counts for queries to come");
}

#[test]
fn keys_of_several_axes_are_refused_where_they_would_turn() {
    let axes = |sections: &[usize]| half().with_sections(sections).unwrap();
    let several = |e: &Error| matches!(e, Error::Score(ScoreError::Axes { axes: 2 }));
    for (name, overrides) in TURNING {
        let error = made(name, overrides, axes(&[1, 3])).unwrap_err();
        assert!(several(&error), "{name}: {error}");
    }
    // One axis is one position.
    let (name, overrides) = TURNING[0];
    let (expected, _) = read(session(name, overrides, half()), same, same);
    assert_eq!(read(session(name, overrides, axes(&[4])), same, same).0, expected);
    // Nothing turns here.
    let kept = read(session("sink-recent", &["budget.tokens=13"], axes(&[1, 3])), same, same);
    assert_eq!(kept, read(session("sink-recent", &["budget.tokens=13"], half()), same, same));
}

#[test]
fn a_rotation_of_more_channels_than_there_are_is_refused_when_a_session_is_made() {
    for (name, overrides) in TURNING.into_iter().chain([("merging", &["position.kind=contiguous"][..])]) {
        let wide = TokenRope::new(Pairing::Half, THETA, DIM + 2).unwrap();
        let error = made(name, overrides, wide).unwrap_err();
        let refused = matches!(error, Error::Score(ScoreError::Count { expected: 4, got: 5, .. }));
        assert!(refused, "{name}: {error}");
    }
}

#[test]
fn keys_that_are_stored_before_the_rotation_are_refused() {
    // Projections of wider heads.
    let facts = || ModelInfo {
        output_projections: vec![vec![0.0; 6 * QUERY_HEADS * 32]; LAYERS],
        ..every_recipe::facts()
    };
    for row in catalogue().iter().filter(|c| c.unit == "token") {
        let recipe = TokenRecipe::named(row.name).unwrap();
        TokenCache::new(
            Host::new(),
            TokenGeometry { head_dim_k: 32, head_dim_v: 32, ..geometry() },
            recipe.clone(),
            facts(),
        )
        .unwrap_or_else(|e| panic!("{}: {e}", row.name));
        let raw = recipe.with_overrides(&["position.keys=pre-rope"]).unwrap();
        let refused = TokenCache::new(Host::new(), geometry(), raw, every_recipe::facts()).map(|_| ());
        assert!(matches!(refused, Err(Error::Recipe(RecipeError::Combination { .. }))), "{refused:?}");
    }
}
