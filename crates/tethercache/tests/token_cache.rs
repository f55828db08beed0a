//! Caches of tokens beside the plainest one there could be: lists of keys and values, and attention over them in `f64`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "token_cache/every_recipe.rs"]
mod every_recipe;
#[path = "token_cache/memory.rs"]
mod memory;
#[path = "token_cache/pictures.rs"]
mod pictures;
#[path = "token_cache/probes.rs"]
mod probes;
#[path = "token_cache/reading.rs"]
mod reading;
#[path = "token_cache/rotations.rs"]
mod rotations;
#[path = "token_cache/steps.rs"]
mod steps;
#[path = "token_cache/turns.rs"]
mod turns;

use std::collections::BTreeSet;
use std::ops::Range;

use tether_core::{CoreError, DType, HostTensor, Pairing};
use tether_host::Host;
use tether_rope::TokenRope;
use tether_score::tokens::{
    GridPlace, HeadProfile, LayerProfile, RecordedTokens, TokenObservation, add_causal_mass,
};
use tethercache::tokens::{
    EvictReport, LayerContext, ModelInfo, NewTokens, SequenceId, SequenceState, TokenAttention, TokenCache,
    TokenGeometry, TokenPlanner, TokenPositions, TokenRecipe,
};
use tethercache::{Error, RecipeError, Requirement, catalogue};

const LAYERS: usize = 2;
const QUERY_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;

fn geometry() -> TokenGeometry {
    TokenGeometry {
        layers: LAYERS,
        query_heads: QUERY_HEADS,
        kv_heads: KV_HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: 4,
        dtype: DType::F32,
        attention: TokenAttention::default(),
    }
}

/// Xorshift, roughly normal.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        1.7 * sum
    }

    fn tensor(&mut self, shape: &[usize]) -> HostTensor {
        let data = (0..shape.iter().product()).map(|_| self.next()).collect();
        HostTensor::from_f32(shape, data).unwrap()
    }
}

/// Position, key and value of each token of a head.
type Token = (i32, Vec<f32>, Vec<f32>);
type Head = Vec<Token>;

/// What a sequence should hold, `[layer][head]`, and every query it had.
#[derive(Clone, Default)]
struct Plain {
    heads: Vec<Vec<Head>>,
    queries: Vec<Vec<f32>>,
    seen: usize,
}

impl Plain {
    fn new() -> Self {
        Self { heads: vec![vec![Head::new(); KV_HEADS]; LAYERS], queries: vec![Vec::new(); LAYERS], seen: 0 }
    }

    /// Adds a token to a layer and attends with it.
    fn step(&mut self, layer: usize, position: i32, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        self.push(layer, position, q, k, v);
        let of_query = |query_head: usize| {
            let tokens = &self.heads[layer][query_head / (QUERY_HEADS / KV_HEADS)];
            attention(tokens.iter(), &q[query_head * DIM..][..DIM])
        };
        (0..QUERY_HEADS).flat_map(of_query).collect()
    }

    /// Adds a token to a layer.
    fn push(&mut self, layer: usize, position: i32, q: &[f32], k: &[f32], v: &[f32]) {
        for (head, tokens) in self.heads[layer].iter_mut().enumerate() {
            let row = |x: &[f32]| x[head * DIM..][..DIM].to_vec();
            tokens.push((position, row(k), row(v)));
        }
        self.queries[layer].extend_from_slice(q);
    }

    /// The layer as it was recorded, and the queries of its last `count` tokens.
    fn recorded(&self, layer: usize, count: usize) -> RecordedTokens {
        let tokens = self.heads[layer][0].len();
        let of_heads = |pick: fn(&Token) -> &Vec<f32>| -> Vec<f32> {
            self.heads[layer].iter().flatten().flat_map(|t| pick(t).clone()).collect()
        };
        let (keys, values) = (of_heads(|t| &t.1), of_heads(|t| &t.2));
        let queries = by_head(&self.queries[layer], count);
        RecordedTokens::new((QUERY_HEADS, KV_HEADS), tokens, (DIM, DIM), keys, values)
            .unwrap()
            .with_queries(queries.clone())
            .unwrap()
            .with_raw_queries(queries)
            .unwrap()
    }
}

/// Queries of the last `count` tokens, `[tokens, QUERY_HEADS, DIM]`, as `[QUERY_HEADS, count, DIM]`.
fn by_head(queries: &[f32], count: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = queries.chunks_exact(QUERY_HEADS * DIM).collect();
    let rows = &rows[rows.len().saturating_sub(count)..];
    (0..QUERY_HEADS).flat_map(|h| rows.iter().flat_map(move |row| &row[h * DIM..][..DIM])).copied().collect()
}

fn attention<'a>(tokens: impl Iterator<Item = &'a Token> + Clone, q: &[f32]) -> Vec<f32> {
    let dot = |k: &[f32]| -> f64 { q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum() };
    let logits: Vec<f64> = tokens.clone().map(|t| dot(&t.1) / (DIM as f64).sqrt()).collect();
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let channel = |c: usize| {
        let values = tokens.clone().zip(&weights).map(|(t, w)| w * f64::from(t.2[c]));
        (values.sum::<f64>() / total) as f32
    };
    (0..DIM).map(channel).collect()
}

/// Cache and plain lists side by side.
struct Pair {
    cache: TokenCache<Host>,
    noise: Noise,
    sequences: Vec<SequenceId>,
}

impl Pair {
    fn new(recipe: TokenRecipe, seed: u64) -> Self {
        Self::knowing(recipe, seed, ModelInfo::default())
    }

    /// Of a model of which something is known.
    fn knowing(recipe: TokenRecipe, seed: u64, facts: ModelInfo) -> Self {
        let cache = TokenCache::new(Host::new(), geometry(), recipe, facts).unwrap();
        Self { cache, noise: Noise(seed), sequences: Vec::new() }
    }

    fn extend(&mut self, sequence: SequenceId, plain: &mut Plain, tokens: usize) {
        let positions: Vec<i32> = (plain.seen..plain.seen + tokens).map(|p| p as i32).collect();
        for layer in 0..LAYERS {
            let q = self.noise.tensor(&[tokens, QUERY_HEADS, DIM]);
            let k = self.noise.tensor(&[tokens, KV_HEADS, DIM]);
            let v = self.noise.tensor(&[tokens, KV_HEADS, DIM]);
            let new = NewTokens { q: &q, k: &k, v: &v, raw_q: Some(&q), positions: &positions, grid: None };
            let got = self.cache.extend(sequence, layer, &new).unwrap().to_f32_vec();
            let (q, k, v) = (q.to_f32_vec(), k.to_f32_vec(), v.to_f32_vec());
            let mut expected = Vec::new();
            for (i, &position) in positions.iter().enumerate() {
                let row = |x: &[f32], heads: usize| x[i * heads * DIM..][..heads * DIM].to_vec();
                let (q, k, v) = (row(&q, QUERY_HEADS), row(&k, KV_HEADS), row(&v, KV_HEADS));
                expected.extend(plain.step(layer, position, &q, &k, &v));
            }
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < 1e-5, "layer {layer}: {got} for {expected}");
            }
        }
        plain.seen += tokens;
        self.check_blocks();
    }

    /// Evicts, and drops from the plain lists whatever the cache says has left.
    fn evict(&mut self, sequence: SequenceId, plain: &mut Plain) -> usize {
        let report = self.evicted(sequence).unwrap();
        let mut gone = 0;
        for (layer, heads) in plain.heads.iter_mut().enumerate() {
            for (head, tokens) in heads.iter_mut().enumerate() {
                let stay = self.cache.positions(sequence, layer, head).unwrap();
                let before = tokens.len();
                tokens.retain(|t| stay.contains(&t.0));
                gone += before - tokens.len();
                assert_eq!(stay, tokens.iter().map(|t| t.0).collect::<Vec<_>>(), "positions, in order");
            }
        }
        assert_eq!(report.evicted, gone);
        gone
    }

    /// Evicts; what is said of bytes is what the cache holds.
    fn evicted(&mut self, sequence: SequenceId) -> Result<EvictReport, Error> {
        let before = self.cache.bytes().held();
        let report = self.cache.evict(sequence)?;
        let after = self.cache.bytes().held();
        assert_eq!((report.freed_bytes, report.resident_bytes), (before.saturating_sub(after), after));
        self.check_blocks();
        Ok(report)
    }

    /// Every block is in use as often as lists name it, and no list has more blocks than its tokens need.
    fn check_blocks(&self) {
        let (bytes, size) = (self.cache.bytes(), geometry().block_size);
        let (mut resident, mut in_use) = (0, 0);
        for layer in 0..LAYERS {
            let pool = self.cache.block_pool(layer).unwrap();
            let mut named = vec![0; pool.capacity()];
            for &sequence in &self.sequences {
                let Ok(lists) = self.cache.block_lists(sequence, layer) else { continue };
                lists.iter().copied().flatten().for_each(|&block| named[block as usize] += 1);
                let lengths = self.cache.head_lengths(sequence, layer).unwrap();
                let csr = self.cache.csr(sequence, layer).unwrap();
                assert_eq!(csr.indptr.len(), KV_HEADS + 1);
                assert_eq!(csr.last_page_len.len(), KV_HEADS);
                for (head, &tokens) in lengths.iter().enumerate() {
                    let pages = csr.indptr[head] as usize..csr.indptr[head + 1] as usize;
                    assert_eq!(pages.len(), tokens.div_ceil(size), "blocks of {tokens} tokens");
                    let full = pages.len().saturating_sub(1) * size;
                    assert_eq!(
                        full + csr.last_page_len[head] as usize,
                        tokens,
                        "the last page of {tokens} tokens"
                    );
                    assert_eq!(csr.indices[pages], *lists[head]);
                }
            }
            let references: Vec<u32> =
                (0..pool.capacity() as u32).map(|block| pool.references(block)).collect();
            assert_eq!(references, named, "layer {layer}");
            in_use += named.iter().filter(|&&n| n > 0).count() as u64;
            let (keys, values) = self.cache.pools(layer).unwrap();
            resident += ((keys.len() + values.len()) * size_of::<f32>()) as u64;
        }
        assert_eq!((bytes.resident, bytes.in_use), (resident, in_use * geometry().block_bytes()));
    }

    fn start(&mut self) -> SequenceId {
        let sequence = self.cache.start();
        self.sequences.push(sequence);
        sequence
    }
}

/// Where tokens stand: five of text, and then pictures of three rows and four columns, each with two words after it.
fn places(tokens: Range<usize>) -> Vec<Option<GridPlace>> {
    let place = |token: usize| {
        let (frame, place) = (token.checked_sub(5)? / 14, (token - 5) % 14);
        let number = |n: usize| n as u32;
        (place < 12).then(|| GridPlace {
            frame: number(frame),
            row: number(place / 4),
            column: number(place % 4),
        })
    };
    tokens.map(place).collect()
}

/// Recipes that a cache carries out on text alone.
fn of_text() -> Vec<TokenRecipe> {
    let recipes =
        catalogue().iter().filter(|c| c.unit == "token").map(|c| TokenRecipe::named(c.name).unwrap());
    recipes
        .filter(|r| TokenCache::new(Host::new(), geometry(), r.clone(), every_recipe::facts()).is_ok())
        .filter(is_of_text)
        .collect()
}

fn is_of_text(recipe: &TokenRecipe) -> bool {
    let needs = TokenPlanner::new(recipe.clone()).unwrap().needs();
    // Tokens that move are looked at on their own, below.
    let moves = recipe.position.kind == TokenPositions::Contiguous;
    // So are tokens that are coded: attention to them is not exact.
    !(moves
        || recipe.codec.is_some()
        || recipe.retain
        || needs.grid
        || needs.head_profile
        || needs.probe_last > 0
        || needs.output_projection)
}

fn small(recipe: &TokenRecipe) -> TokenRecipe {
    let mut small = recipe.with_overrides(&["budget.ratio=0.4"]).unwrap();
    for (key, value) in [("score.window", 4), ("score.lag", 6), ("score.suffix", 4), ("select.chunk", 3)] {
        if let Ok(changed) = small.with_overrides(&[format!("{key}={value}")])
            && changed.validate().is_ok()
        {
            small = changed;
        }
    }
    small
}

#[test]
fn every_recipe_attends_over_what_it_keeps() {
    let recipes = of_text();
    assert!(recipes.len() >= 12, "{} recipes", recipes.len());
    for (seed, recipe) in recipes.iter().enumerate().filter(|(_, r)| r.edit.is_none()) {
        let recipe = small(recipe);
        let name = recipe.name.clone();
        let frequencies: Vec<f64> = (0..DIM / 2).map(|i| 10f64.powi(-(i as i32))).collect();
        let facts = turns_by(&frequencies);
        let mut pair = Pair::knowing(recipe, 0x9E37_79B9 + seed as u64, facts);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        for tokens in [17, 30, 1] {
            pair.extend(sequence, &mut plain, tokens);
        }
        let full = pair.cache.bytes().in_use;
        let gone = pair.evict(sequence, &mut plain);
        if name != "full" {
            assert!(gone > 0, "{name} evicts from a prompt of 48");
            assert!(pair.cache.bytes().in_use < full, "{name} frees blocks");
        }
        for _ in 0..25 {
            pair.extend(sequence, &mut plain, 1);
            pair.evict(sequence, &mut plain);
        }
        pair.cache.remove(sequence).unwrap();
        assert_eq!(pair.cache.bytes().in_use, 0, "{name} leaves nothing behind");
    }
}

#[test]
fn keeps_what_the_planner_keeps_of_the_whole_text() {
    for (seed, recipe) in of_text().iter().enumerate() {
        let recipe = small(recipe);
        let frequencies: Vec<f64> = (0..DIM / 2).map(|i| 10f64.powi(-(i as i32))).collect();
        let mut pair = Pair::knowing(recipe.clone(), 0xABCD + seed as u64, turns_by(&frequencies));
        let (sequence, mut plain) = (pair.start(), Plain::new());
        for tokens in [20, 29] {
            pair.extend(sequence, &mut plain, tokens);
        }
        let planner = TokenPlanner::new(recipe.clone()).unwrap();
        let mut state = SequenceState::default();
        let tokens = plain.seen;
        pair.cache.evict(sequence).unwrap();
        for layer in 0..LAYERS {
            let seen = plain.recorded(layer, tokens).with_frequencies(frequencies.clone());
            let turn = LayerContext { layer, layers: LAYERS, seen: tokens, decoding: false };
            let plan = planner.plan(turn, &seen, &mut state).unwrap();
            for (head, set) in plan.keep.sets().iter().enumerate() {
                let expected: Vec<i32> = set.iter().map(|&t| t as i32).collect();
                let got = pair.cache.positions(sequence, layer, head).unwrap();
                assert_eq!(got, expected, "{}, layer {layer}, head {head}", recipe.name);
            }
        }
    }
}

#[test]
fn a_prompt_is_chosen_from_in_pieces_and_held_whole_until_then() {
    let keydiff = TokenRecipe::named("keydiff").unwrap();
    let more = ["budget.tokens=12", "decode.every=20"];
    let mut kept = Vec::new();
    for pieces in [&[][..], &["prefill.every=8"]] {
        let recipe = keydiff.with_overrides(&[&more, pieces].concat()).unwrap();
        let mut pair = Pair::new(recipe, 0x92);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        for tokens in [30, 25] {
            pair.extend(sequence, &mut plain, tokens);
        }
        let bytes = pair.cache.bytes();
        assert!(bytes.in_use >= bytes.full, "no token of the prompt has left: {bytes:?}");
        pair.evict(sequence, &mut plain);
        kept.push(plain.heads.clone());
        // Tokens that come later are not a prompt: what leaves is chosen from all that is held.
        pair.extend(sequence, &mut plain, 20);
        let planner = pair.cache.planner().clone();
        for layer in 0..LAYERS {
            let turn = LayerContext { layer, layers: LAYERS, seen: 75, decoding: true };
            let at_once = TokenPlanner::new(keydiff.with_overrides(&more).unwrap()).unwrap();
            let seen = plain.recorded(layer, 20);
            let plan = |p: &TokenPlanner| p.plan(turn, &seen, &mut SequenceState::default()).unwrap().keep;
            assert_eq!(plan(&planner), plan(&at_once));
        }
    }
    assert_ne!(kept[0], kept[1], "pieces make a difference");
    // By hand: the pieces of the prompt, one after the other.
    let planner = TokenPlanner::new(keydiff.with_overrides(&more).unwrap()).unwrap();
    let mut pair = Pair::new(TokenRecipe::named("full").unwrap(), 0x92);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    for tokens in [30, 25] {
        pair.extend(sequence, &mut plain, tokens);
    }
    for (layer, heads) in plain.heads.iter().enumerate() {
        for (head, tokens) in heads.iter().enumerate() {
            let mut held = tokens[..12].to_vec();
            for piece in tokens[12..].chunks(8) {
                held.extend_from_slice(piece);
                let of = |pick: fn(&Token) -> &Vec<f32>| held.iter().flat_map(|t| pick(t).clone()).collect();
                let seen =
                    RecordedTokens::new((1, 1), held.len(), (DIM, DIM), of(|t| &t.1), of(|t| &t.2)).unwrap();
                let turn = LayerContext { layer, layers: LAYERS, seen: 55, decoding: false };
                let plan = planner.plan(turn, &seen, &mut SequenceState::default()).unwrap();
                held = plan.keep.head(0).iter().map(|&t| held[t as usize].clone()).collect();
            }
            assert_eq!(kept[1][layer][head], held, "layer {layer}, head {head}");
        }
    }
}

/// A profile whose head 1 of layer 0 looks things up, and whose heads 0 are contextual.
fn profile() -> HeadProfile {
    let layer = |first: f32| LayerProfile {
        echo: vec![0.0, first],
        induction: vec![0.0, first],
        variance: vec![0.1, 0.2 + first],
    };
    HeadProfile { layers: vec![layer(0.9), layer(0.1)], ..HeadProfile::default() }
}

fn profiled(recipe: &str, overrides: &[&str], seed: u64) -> Pair {
    let recipe = TokenRecipe::named(recipe).unwrap().with_overrides(overrides).unwrap();
    let facts = ModelInfo { head_profile: Some(profile()), ..turns_by(&frequencies()) };
    Pair::knowing(recipe, seed, facts)
}

/// Attention of one more token, worked out from what the cache holds: rows of its pools, and with `mean` a token that stands for those of `all`
/// that left: the mean of them, as often as they were.
fn attends_over_its_rows(pair: &mut Pair, sequence: SequenceId, position: i32, all: &Plain, mean: bool) {
    for layer in 0..LAYERS {
        let q = pair.noise.tensor(&[1, QUERY_HEADS, DIM]);
        let k = pair.noise.tensor(&[1, KV_HEADS, DIM]);
        let v = pair.noise.tensor(&[1, KV_HEADS, DIM]);
        let new = NewTokens { q: &q, k: &k, v: &v, raw_q: Some(&q), positions: &[position], grid: None };
        let got = pair.cache.extend(sequence, layer, &new).unwrap().to_f32_vec();
        let (keys, values) = pair.cache.pools(layer).unwrap();
        let (keys, values, q) = (keys.to_f32_vec(), values.to_f32_vec(), q.to_f32_vec());
        for query_head in 0..QUERY_HEADS {
            let head = query_head / (QUERY_HEADS / KV_HEADS);
            let rows = pair.cache.slot_mapping(sequence, layer, head).unwrap();
            let row = |x: &[f32], i: u32| x[i as usize * DIM..][..DIM].to_vec();
            let q = &q[query_head * DIM..][..DIM];
            let logit = |k: &[f32]| -> f64 {
                q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (DIM as f64).sqrt()
            };
            let mut tokens: Vec<(f64, Vec<f32>)> =
                rows.iter().map(|&i| (logit(&row(&keys, i)).exp(), row(&values, i))).collect();
            let stay = pair.cache.positions(sequence, layer, head).unwrap();
            let gone: Vec<&Token> = all.heads[layer][head].iter().filter(|t| !stay.contains(&t.0)).collect();
            if mean && !gone.is_empty() {
                let mean = |of: fn(&Token) -> &Vec<f32>| -> Vec<f32> {
                    let sum = |c: usize| gone.iter().map(|t| f64::from(of(t)[c])).sum::<f64>();
                    (0..DIM).map(|c| (sum(c) / gone.len() as f64) as f32).collect()
                };
                tokens.push((gone.len() as f64 * logit(&mean(|t| &t.1)).exp(), mean(|t| &t.2)));
            }
            let total: f64 = tokens.iter().map(|t| t.0).sum();
            for channel in 0..DIM {
                let sum: f64 = tokens.iter().map(|(w, v)| w * f64::from(v[channel])).sum();
                let got = got[query_head * DIM + channel];
                assert!((f64::from(got) - sum / total).abs() < 1e-5, "layer {layer}, head {query_head}");
            }
        }
    }
}

#[test]
fn recipes_that_merge_attend_over_what_they_made() {
    for (recipe, overrides) in [
        ("merging", ["budget.ratio=0.2", "select.kind=top-k"]),
        ("elastic-cache", ["budget.ratio=0.2", "select.kind=top-k"]),
        ("hack", ["budget.ratio=0.2", "select.kind=top-k"]),
        ("razor-attention", ["budget.ratio=0.4", "budget.heads.induction=0.25"]),
    ] {
        let mut pair = profiled(recipe, &overrides, 31);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        pair.extend(sequence, &mut plain, 200);
        let before = pair.cache.bytes().in_use;
        let report = pair.cache.evict(sequence).unwrap();
        let mean = recipe == "razor-attention";
        assert!((report.merged > 0) != mean && report.evicted > 0, "{recipe}: {report:?}");
        assert!(pair.cache.bytes().in_use < before * 6 / 10, "{recipe}");
        let cut = |layer: usize| {
            pair.cache.head_lengths(sequence, layer).unwrap().iter().filter(|&&n| n < 200).count()
        };
        let stand_for_others =
            if mean { (0..LAYERS).map(cut).sum::<usize>() * 2 * DIM * size_of::<f32>() } else { 0 };
        assert_eq!(pair.cache.bytes().host, stand_for_others as u64, "{recipe}");
        for step in 0..3 {
            attends_over_its_rows(&mut pair, sequence, 200 + step, &plain, mean);
        }
        let tokens: usize = (0..LAYERS).flat_map(|l| pair.cache.head_lengths(sequence, l).unwrap()).sum();
        let read = tokens * 2 * DIM * size_of::<f32>() + stand_for_others;
        assert_eq!(pair.cache.bytes().read, read as u64, "{recipe}");
    }
}

#[test]
fn refuses_what_does_not_fit_and_stays_as_it_was() {
    let mut pair = Pair::new(TokenRecipe::named("full").unwrap(), 9);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 6);
    let before = pair.cache.bytes();
    let (q, k) = (pair.noise.tensor(&[1, QUERY_HEADS, DIM]), pair.noise.tensor(&[1, KV_HEADS, DIM]));
    let new = |positions| NewTokens { q: &q, k: &k, v: &k, raw_q: None, positions, grid: None };
    let e = pair.cache.extend(sequence, 7, &new(&[6]));
    assert!(matches!(e, Err(Error::NoSuchLayer { .. })), "{e:?}");
    let e = pair.cache.extend(sequence, 1, &new(&[6]));
    assert!(matches!(e, Err(Error::LayerTokens { expected: 6, got: 7, .. })), "{e:?}");
    let e = pair.cache.extend(sequence, 0, &new(&[5]));
    assert!(matches!(e, Err(Error::Core(CoreError::Geometry { field: "positions", .. }))), "{e:?}");
    let e = pair.cache.extend(sequence, 0, &new(&[6, 7]));
    assert!(matches!(e, Err(Error::Core(CoreError::ShapeMismatch { what: "q", .. }))), "{e:?}");
    let nan = HostTensor::from_f32(&[1, KV_HEADS, DIM], vec![f32::NAN; KV_HEADS * DIM]).unwrap();
    let e = pair.cache.extend(sequence, 0, &NewTokens { v: &nan, ..new(&[6]) });
    assert!(matches!(e, Err(Error::Core(CoreError::NonFinite { what: "v", .. }))), "{e:?}");
    assert_eq!(pair.cache.bytes(), before);
    pair.extend(sequence, &mut plain, 2);
}

/// True where exactly `facts` of the model are said to be missing.
fn misses(error: &Error, facts: &[Requirement]) -> bool {
    matches!(error, Error::Recipe(RecipeError::Missing { missing, .. }) if **missing == *facts)
}

#[test]
fn queries_before_the_rotation_are_asked_for_token_by_token() {
    for recipe in every_recipe::recipes() {
        let needed = recipe.requires().iter().any(|r| matches!(r, Requirement::RawQueries { .. }));
        let name = recipe.name.clone();
        let mut pair = every_recipe::session(recipe, 0x3A);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        // Those of earlier tokens do not stand for those of new ones.
        pair.extend(sequence, &mut plain, 6);
        let before = pair.cache.bytes();
        let (q, k) = (pair.noise.tensor(&[2, QUERY_HEADS, DIM]), pair.noise.tensor(&[2, KV_HEADS, DIM]));
        let new = NewTokens::new(&q, &k, &k, &[6, 7]);
        let told = [
            pair.cache.extend(sequence, 0, &new).map(drop),
            pair.cache.append(sequence, 0, &NewTokens::new(&q, &k, &k, &[8, 9])),
        ];
        for result in told {
            let what = "queries before the rotation";
            let refused = matches!(
                result,
                Err(Error::Core(CoreError::Count { what: of, expected: 2, got: 0 })) if of == what
            );
            assert!(if needed { refused } else { result.is_ok() }, "{name}: {result:?}");
        }
        if needed {
            assert_eq!((pair.cache.bytes(), pair.cache.seen(sequence, 0).unwrap()), (before, 6), "{name}");
            pair.extend(sequence, &mut plain, 2);
        }
    }
}

#[test]
fn facts_are_asked_for_when_a_cache_is_made() {
    let made = |name: &str, facts: ModelInfo| {
        let recipe = TokenRecipe::named(name).unwrap();
        TokenCache::new(Host::new(), geometry(), recipe, facts).map(|_| ())
    };
    let all = every_recipe::facts;
    let mut asked = BTreeSet::new();
    for recipe in every_recipe::recipes() {
        made(&recipe.name, all()).unwrap_or_else(|e| panic!("{}: {e}", recipe.name));
        let of_model: Vec<Requirement> = recipe.requires().into_iter().filter(|r| r.is_of_model()).collect();
        match made(&recipe.name, ModelInfo::default()) {
            Ok(()) => assert!(of_model.is_empty(), "{} needs {of_model:?}", recipe.name),
            Err(error) => assert!(misses(&error, &of_model) && asked.insert(recipe.name), "{error}"),
        }
    }
    assert!(asked.len() >= 7, "{asked:?}");

    // Those of a model of other sizes, or of none.
    let mut plain = profile();
    plain.layers.iter_mut().for_each(|layer| layer.variance.clear());
    let error = made("hack", ModelInfo { head_profile: Some(plain), ..all() }).unwrap_err();
    assert!(misses(&error, &[Requirement::HeadProfile { variances: true }]), "{error}");
    let mut heads = profile();
    heads.layers.iter_mut().for_each(|layer| layer.induction.push(0.5));
    let count = |error: Error| match error {
        Error::Score(tether_score::ScoreError::Count { expected, got, .. }) => (expected, got),
        other => panic!("{other}"),
    };
    let error = made("razor-attention", ModelInfo { head_profile: Some(heads), ..all() }).unwrap_err();
    assert_eq!(count(error), (KV_HEADS, KV_HEADS + 1));
    let mut short = all();
    short.output_projections.truncate(1);
    assert_eq!(count(made("criticalkv", short).unwrap_err()), (LAYERS, 1));
    let mut odd = all();
    odd.output_projections[1].pop();
    let whole = 6 * QUERY_HEADS * DIM;
    assert_eq!(count(made("criticalkv", odd).unwrap_err()), (whole, whole - 1));
}

const THETA: f64 = 100.0;

fn frequencies() -> Vec<f64> {
    (0..DIM / 2).map(|p| THETA.powf(-2.0 * p as f64 / DIM as f64)).collect()
}

/// The turns of half-split pairs.
fn turning(frequencies: &[f64]) -> TokenRope {
    TokenRope::from_frequencies(Pairing::Half, frequencies.to_vec()).unwrap()
}

/// What is known of a model whose keys turn so, and of which nothing else is.
fn turns_by(frequencies: &[f64]) -> ModelInfo {
    ModelInfo { rope: Some(turning(frequencies)), ..ModelInfo::default() }
}

/// A key turned by `delta` positions, in `f64`.
fn turned(key: &[f32], delta: i32) -> Vec<f64> {
    let mut out: Vec<f64> = key.iter().copied().map(f64::from).collect();
    for (pair, frequency) in frequencies().into_iter().enumerate() {
        let (sin, cos) = (f64::from(delta) * frequency).sin_cos();
        let (a, b) = (f64::from(key[pair]), f64::from(key[pair + DIM / 2]));
        (out[pair], out[pair + DIM / 2]) = (a * cos - b * sin, b * cos + a * sin);
    }
    out
}

/// Attention over tokens as they came, each turned to where it should stand: all next to each other, the last at the query's position.
fn attention_without_gaps(tokens: &[Token], position: i32, q: &[f32]) -> Vec<f64> {
    let first = position + 1 - tokens.len() as i32;
    let logits = tokens.iter().enumerate().map(|(place, (home, key, _))| {
        let key = turned(key, first + place as i32 - home);
        q.iter().zip(key).map(|(a, b)| f64::from(*a) * b).sum::<f64>() / (DIM as f64).sqrt()
    });
    let logits: Vec<f64> = logits.collect();
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let sum =
        |channel: usize| tokens.iter().zip(&weights).map(|(t, w)| w * f64::from(t.2[channel])).sum::<f64>();
    (0..DIM).map(|channel| sum(channel) / total).collect()
}

/// Tokens with their positions as they came, `[layer][head]`, of a sequence whose cache closes gaps.
type Came = Vec<Vec<Head>>;

fn step_without_gaps(
    cache: &mut TokenCache<Host>,
    sequence: SequenceId,
    came: &mut Came,
    position: i32,
    noise: &mut Noise,
) {
    for (layer, heads) in came.iter_mut().enumerate() {
        let q = noise.tensor(&[1, QUERY_HEADS, DIM]);
        let (k, v) = (noise.tensor(&[1, KV_HEADS, DIM]), noise.tensor(&[1, KV_HEADS, DIM]));
        let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &[position], grid: None };
        let got = cache.extend(sequence, layer, &new).unwrap().to_f32_vec();
        let (q, k, v) = (q.to_f32_vec(), k.to_f32_vec(), v.to_f32_vec());
        let row = |x: &[f32], head: usize| x[head * DIM..][..DIM].to_vec();
        for (head, tokens) in heads.iter_mut().enumerate() {
            tokens.push((position, row(&k, head), row(&v, head)));
        }
        for query_head in 0..QUERY_HEADS {
            let tokens = &heads[query_head / (QUERY_HEADS / KV_HEADS)];
            let expected = attention_without_gaps(tokens, position, &row(&q, query_head));
            for (got, expected) in row(&got, query_head).iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-5, "at {position}: {got} for {expected}");
            }
        }
    }
}

/// Sinks and the newest tokens stay, as streaming-llm has it.
fn streamed(came: &mut Came, cache: &TokenCache<Host>, sequence: SequenceId, next: i32) {
    for (layer, heads) in came.iter_mut().enumerate() {
        for (head, tokens) in heads.iter_mut().enumerate() {
            let stands = cache.positions(sequence, layer, head).unwrap();
            let left = tokens.len() - stands.len();
            if left > 0 {
                tokens.drain(4..4 + left);
            }
            let expected: Vec<i32> = (next - stands.len() as i32..next).collect();
            assert_eq!(stands, expected, "no gaps, up to the next position");
        }
    }
}

#[test]
fn gaps_are_closed_without_drift() {
    let recipe = TokenRecipe::named("streaming-llm").unwrap().with_overrides(&["budget.tokens=13"]).unwrap();
    let facts = ModelInfo { rope: Some(turning(&frequencies())), ..ModelInfo::default() };
    let mut cache = TokenCache::new(Host::new(), geometry(), recipe, facts).unwrap();
    let (mut noise, sequence) = (Noise(77), cache.start());
    let mut came: Came = vec![vec![Head::new(); KV_HEADS]; LAYERS];
    // Far enough that sinks which were turned again at every step would have drifted.
    for position in 0..3000 {
        step_without_gaps(&mut cache, sequence, &mut came, position, &mut noise);
        cache.evict(sequence).unwrap();
        streamed(&mut came, &cache, sequence, position + 1);
        assert!(came[0][0].len() <= 13);
        let evicted = came[0][0].len() <= position as usize;
        let sinks = if !evicted { 0 } else { 4 * LAYERS * KV_HEADS * DIM * size_of::<f32>() };
        assert_eq!(cache.bytes().host, sinks as u64, "only the sinks move twice");
    }
    // A fork shares blocks; both go on, each with its own.
    let (copy, mut came_copy) = (cache.fork(sequence).unwrap(), came.clone());
    for position in 3000..3020 {
        step_without_gaps(&mut cache, sequence, &mut came, position, &mut noise);
        cache.evict(sequence).unwrap();
        streamed(&mut came, &cache, sequence, position + 1);
        step_without_gaps(&mut cache, copy, &mut came_copy, position, &mut noise);
        cache.evict(copy).unwrap();
        streamed(&mut came_copy, &cache, copy, position + 1);
    }
}

/// Gaps anywhere: lengths of keys do not change when they turn, so that a cache which moves nothing says what stays.
#[test]
fn gaps_of_any_shape_are_closed() {
    let knorm = TokenRecipe::named("knorm").unwrap();
    let recipe = |more: &str| knorm.with_overrides(&["budget.tokens=9", "decode.every=5", more]).unwrap();
    let facts = ModelInfo { rope: Some(turning(&frequencies())), ..ModelInfo::default() };
    let closing = recipe("position.kind=contiguous");
    let mut cache = TokenCache::new(Host::new(), geometry(), closing, facts).unwrap();
    let keeping = recipe("position.kind=keep");
    let mut still = TokenCache::new(Host::new(), geometry(), keeping, ModelInfo::default()).unwrap();
    let (sequence, of_still) = (cache.start(), still.start());
    let (mut noise, mut same) = (Noise(79), Noise(79));
    let mut came: Came = vec![vec![Head::new(); KV_HEADS]; LAYERS];
    for position in 0..60 {
        step_without_gaps(&mut cache, sequence, &mut came, position, &mut noise);
        for layer in 0..LAYERS {
            let q = same.tensor(&[1, QUERY_HEADS, DIM]);
            let (k, v) = (same.tensor(&[1, KV_HEADS, DIM]), same.tensor(&[1, KV_HEADS, DIM]));
            let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &[position], grid: None };
            still.extend(of_still, layer, &new).unwrap();
        }
        if position % 7 != 6 {
            continue;
        }
        let evicted = cache.evict(sequence).unwrap().evicted;
        assert_eq!(evicted, still.evict(of_still).unwrap().evicted);
        for (layer, heads) in came.iter_mut().enumerate() {
            for (head, tokens) in heads.iter_mut().enumerate() {
                let stay = still.positions(of_still, layer, head).unwrap();
                tokens.retain(|t| stay.contains(&t.0));
                let stands = cache.positions(sequence, layer, head).unwrap();
                let next = position + 1;
                assert_eq!(stands, (next - tokens.len() as i32..next).collect::<Vec<_>>());
            }
        }
    }
    assert!(came[0][0].len() < 20, "something was evicted");
}

#[test]
fn gaps_are_not_closed_without_frequencies() {
    let recipe = TokenRecipe::named("streaming-llm").unwrap().with_overrides(&["budget.tokens=8"]).unwrap();
    let error = TokenCache::new(Host::new(), geometry(), recipe, ModelInfo::default()).unwrap_err();
    assert!(misses(&error, &[Requirement::Rotation]), "{error}");
}
