//! Sessions whose cold tokens are codes, beside attention in `f64` over what they say that they hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_core::{CoreError, DType, HostTensor};
use tether_host::Host;
use tethercache::score::ScoreError;
use tethercache::tokens::{
    EvictReport, HeadContents, ModelInfo, NewTokens, SequenceId, TokenAttention, TokenCache, TokenGeometry,
    TokenRecipe,
};
use tethercache::{Error, RecipeError, catalogue};

const LAYERS: usize = 2;
const QUERY_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const GROUP: usize = QUERY_HEADS / KV_HEADS;

fn geometry(dtype: DType) -> TokenGeometry {
    TokenGeometry {
        layers: LAYERS,
        query_heads: QUERY_HEADS,
        kv_heads: KV_HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: 4,
        dtype,
        attention: TokenAttention::default(),
    }
}

/// A recipe with small regions.
fn small(name: &str, overrides: &[&str]) -> TokenRecipe {
    let recipe = TokenRecipe::named(name).unwrap();
    let regions = ["codec.sink=2", "codec.recent=5", "codec.page=8"];
    recipe.with_overrides(&[&regions, overrides].concat()).unwrap()
}

/// Recipes that give tokens bits by what they are worth, by who shares a budget.
fn retained() -> Vec<TokenRecipe> {
    let own = ["codec.retention.window=4", "codec.retention.every=3"];
    let recipe = |bits: &str, scope: &str| {
        let set = [format!("codec.retention.bits={bits}"), format!("codec.retention.scope={scope}")];
        small("spherical-rdr", &own).with_overrides(&set).unwrap()
    };
    let recipes =
        vec![recipe("3.0", "head"), recipe("2.25", "layer"), recipe("2.25", "all"), recipe("0.3", "all")];
    recipes.iter().for_each(|r| r.validate().unwrap());
    recipes
}

/// Every recipe of the catalogue that stores codes of equal bits, and other settings of them.
fn all() -> Vec<TokenRecipe> {
    let named = catalogue().iter().filter(|c| c.unit == "token").map(|c| c.name);
    let coded = named.filter(|n| TokenRecipe::named(n).unwrap().codec.is_some_and(|c| c.retention.is_none()));
    let mut recipes: Vec<_> = coded.map(|name| small(name, &[])).collect();
    assert!(recipes.len() >= 5, "{} recipes", recipes.len());
    recipes.push(small("kivi", &["codec.keys.bits=2", "codec.values.bits=2"]));
    recipes.push(small("spherical", &["codec.keys.mean=page", "codec.values.mean=page"]));
    recipes.push(small("spherical", &["codec.keys.bits=2", "codec.values={kind=\"int\",bits=4,group=32}"]));
    for bits in ["1", "3", "6"] {
        let both = [format!("codec.keys.bits={bits}"), format!("codec.values.bits={bits}")];
        recipes.push(small("spherical", &both.each_ref().map(String::as_str)));
    }
    recipes.push(small("spherical-published", &["codec.keys.tier=low", "codec.page=1"]));
    recipes
}

struct Session {
    cache: TokenCache<Host>,
    noise: u64,
}

impl Session {
    fn new(recipe: TokenRecipe, dtype: DType) -> Self {
        let cache = TokenCache::new(Host::new(), geometry(dtype), recipe, ModelInfo::default()).unwrap();
        Self { cache, noise: 0x9E37_79B9 }
    }

    /// Roughly normal, away from zero in some channels.
    fn tensor(&mut self, tokens: usize, heads: usize, far: f32) -> HostTensor {
        let mut next = || {
            let mut sum = 0.0;
            for _ in 0..4 {
                self.noise ^= self.noise << 13;
                self.noise ^= self.noise >> 7;
                self.noise ^= self.noise << 17;
                sum += (self.noise >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            1.7 * sum
        };
        let data: Vec<f32> =
            (0..tokens * heads * DIM).map(|i| next() + if i % DIM < 3 { far } else { 0.0 }).collect();
        let dtype = self.cache.geometry().dtype;
        let data = tether_core::TensorData::narrowed(dtype, &data);
        HostTensor::new(&[tokens, heads, DIM], data).unwrap()
    }

    /// Adds tokens to all layers, and holds attention to what the cache says that it holds.
    fn extend(&mut self, sequence: SequenceId, tokens: usize) {
        let first = self.cache.seen(sequence, 0usize).unwrap() as i32;
        let positions: Vec<i32> = (first..first + tokens as i32).collect();
        for layer in 0..LAYERS {
            let (q, k, v) = (
                self.tensor(tokens, QUERY_HEADS, 0.0),
                self.tensor(tokens, KV_HEADS, 4.0),
                self.tensor(tokens, KV_HEADS, -2.0),
            );
            let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &positions, grid: None };
            let got = self.cache.extend(sequence, layer, &new).unwrap().to_f32_vec();
            let held: Vec<HeadContents> =
                (0..KV_HEADS).map(|h| self.cache.contents(sequence, layer, h).unwrap()).collect();
            let tolerance = if q.dtype() == DType::F32 { 1e-5 } else { 4e-3 };
            let queries = q.to_f32_vec();
            for (row, (got, q)) in got.chunks_exact(DIM).zip(queries.chunks_exact(DIM)).enumerate() {
                let (token, head) = (row / QUERY_HEADS, row % QUERY_HEADS / GROUP);
                let expected = attention(q, &held[head], positions[token]);
                for (got, expected) in got.iter().zip(expected) {
                    let apart = (f64::from(*got) - expected).abs();
                    assert!(apart < tolerance, "layer {layer}, row {row}: {got} for {expected}");
                }
            }
        }
    }

    /// Evicts, and checks what holds afterwards.
    fn evict(&mut self, sequence: SequenceId) -> EvictReport {
        let report = self.cache.evict(sequence).unwrap();
        let bytes = self.cache.bytes();
        assert_eq!(report.resident_bytes, bytes.held());
        let held: usize = (0..LAYERS).flat_map(|l| self.cache.head_lengths(sequence, l).unwrap()).sum();
        assert_eq!(report.kept, held);
        report
    }
}

/// Attention of `q` to what stands at `position` or before.
fn attention(q: &[f32], held: &HeadContents, position: i32) -> Vec<f64> {
    let seen = held.positions.iter().filter(|p| **p <= position).count();
    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let logits: Vec<f64> =
        held.keys.chunks_exact(DIM).take(seen).map(|k| dot(k) / (DIM as f64).sqrt()).collect();
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..DIM)
        .map(|c| {
            weights.iter().zip(held.values.chunks_exact(DIM)).map(|(w, v)| w / total * f64::from(v[c])).sum()
        })
        .collect()
}

#[test]
fn attends_over_the_numbers_that_codes_stand_for() {
    for recipe in all() {
        for dtype in [DType::F32, DType::F16] {
            let mut session = Session::new(recipe.clone(), dtype);
            let sequence = session.cache.start();
            session.extend(sequence, 40);
            let report = session.evict(sequence);
            let (page, first) = (recipe.codec.unwrap().page, (40 - 7) / recipe.codec.unwrap().page);
            assert_eq!(
                (report.coded, report.evicted),
                (LAYERS * KV_HEADS * first * page, 0),
                "{}",
                recipe.name
            );
            assert_eq!(report.kept, LAYERS * KV_HEADS * 40);
            for tokens in [1, 1, 9, 3, 17, 1] {
                session.extend(sequence, tokens);
                session.evict(sequence);
            }
            let positions = session.cache.positions(sequence, 1usize, 1).unwrap().into_owned();
            assert_eq!(positions, (0..72).collect::<Vec<_>>());
        }
    }
}

/// The codes of a recipe's tokens cost what its documentation says.
#[test]
fn bytes_are_those_of_the_codes_and_of_what_goes_beside_them() {
    let row = |bits: usize| DIM * bits / 8;
    // Each page of 8 tokens has a header of 8 bytes; a head of one frame has its means in f16.
    for (name, overrides, page, head) in [
        ("int8", vec![], 2 * 8 * (row(8) + 4) + 8, 0),
        ("int4", vec![], 2 * 8 * (row(4) + 4) + 8, 0),
        ("kivi", vec![], 8 * row(4) + 4 * DIM + 8 * (row(4) + 4) + 8, 0),
        ("spherical", vec![], 2 * 8 * (row(4) + 2) + 8, 4 * DIM),
        ("spherical", vec!["codec.keys.bits=3"], 8 * (row(3) + row(4) + 4) + 8, 4 * DIM),
        ("spherical", vec!["codec.keys.mean=page"], 2 * 8 * (row(4) + 2) + 8 + 4 * DIM, 0),
        // Two groups of 16 channels: directions of 6 bits, radii of 8, a scale; and codebooks of 64 directions.
        ("spherical-published", vec![], 8 * 2 * 6 / 8 + 8 * 2 + 2 * 4 + 8 * 2 * DIM + 8, 64 * DIM * 4),
    ] {
        let mut session = Session::new(small(name, &overrides), DType::F32);
        let sequence = session.cache.start();
        session.extend(sequence, 50);
        session.evict(sequence);
        let pages = (50 - 7) / 8;
        let bytes = session.cache.bytes();
        assert_eq!(bytes.coded, (LAYERS * KV_HEADS * (pages * page + head)) as u64, "{name} {overrides:?}");
        // What is left as it came is in blocks of 4 tokens, and in nothing else.
        let left = LAYERS * KV_HEADS * (50 - pages * 8usize).div_ceil(4);
        assert_eq!(bytes.in_use, left as u64 * session.cache.geometry().block_bytes());
        assert_eq!(bytes.held(), bytes.resident + bytes.coded);
        assert_eq!(session.cache.coded_bytes(sequence).unwrap(), bytes.coded);
    }
}

#[test]
fn dense_numbers_are_really_gone() {
    let mut session = Session::new(small("spherical", &[]), DType::F16);
    let sequence = session.cache.start();
    for _ in 0..20 {
        session.extend(sequence, 40);
        session.evict(sequence);
    }
    let bytes = session.cache.bytes();
    // 4.5 bits a channel of these small heads, beside 16.
    assert!(bytes.held() * 3 < bytes.full, "{bytes:?}");
}

/// Bytes of codes, without the means of heads, and what the budget of the recipe is.
fn spent(session: &Session, sequence: SequenceId) -> (u64, u64) {
    let retention = session.cache.planner().recipe().codec.unwrap().retention.unwrap();
    let mut budget = 0.0;
    for layer in 0..LAYERS {
        for head in 0..KV_HEADS {
            let blocks = session.cache.slot_mapping(sequence, layer, head).unwrap().len();
            let out = session.cache.seen(sequence, layer).unwrap() - blocks;
            budget += f64::from(retention.bits) * (2 * DIM * out) as f64 / 8.0;
        }
    }
    let means = if budget > 0.0 { (LAYERS * KV_HEADS * 4 * DIM) as u64 } else { 0 };
    (session.cache.coded_bytes(sequence).unwrap() - means, budget as u64)
}

#[test]
fn retention_keeps_its_budget_from_step_to_step() {
    for recipe in retained() {
        let mut session = Session::new(recipe, DType::F32);
        let sequence = session.cache.start();
        session.extend(sequence, 60);
        let mut report = session.evict(sequence);
        let (mut gone, mut first) = (report.evicted, true);
        let name = format!("{:?}", session.cache.planner().recipe().codec);
        for step in 0..30 {
            let (bytes, budget) = spent(&session, sequence);
            assert!(bytes <= budget, "{name}: {bytes} of {budget}");
            // A budget of bits for some tokens is spent on them.
            assert!(budget < 1000 || bytes * 3 > budget * 2, "{name}: {bytes} of {budget}");
            assert!(!first || report.distortion > 0.0);
            let lengths: usize =
                (0..LAYERS).flat_map(|l| session.cache.head_lengths(sequence, l).unwrap()).sum();
            assert_eq!(lengths + gone, LAYERS * KV_HEADS * session.cache.seen(sequence, 0usize).unwrap());
            session.extend(sequence, 1 + step % 4);
            report = session.evict(sequence);
            (gone, first) = (gone + report.evicted, false);
        }
        assert!(gone > 0, "{name}");
        let positions = session.cache.positions(sequence, 0usize, 0).unwrap().into_owned();
        assert_eq!(positions[..2], [0, 1], "sinks stay");
        let seen = session.cache.seen(sequence, 0usize).unwrap() as i32;
        assert!(positions.ends_with(&(seen - 5..seen).collect::<Vec<_>>()), "and so do the newest");
    }
}

/// What a refresh leaves in its tier is not touched, and nothing comes back.
#[test]
fn codes_only_ever_lose_bits() {
    let recipe = retained().swap_remove(2);
    let mut session = Session::new(recipe, DType::F32);
    let sequence = session.cache.start();
    session.extend(sequence, 60);
    session.evict(sequence);
    let rows = |session: &Session| -> Vec<(i32, Vec<f32>)> {
        let held = session.cache.contents(sequence, 0usize, 0).unwrap();
        held.positions.iter().copied().zip(held.keys.chunks_exact(DIM).map(<[f32]>::to_vec)).collect()
    };
    let (mut unchanged, mut changed) = (0, 0);
    let mut before = rows(&session);
    for _ in 0..20 {
        session.extend(sequence, 3);
        session.evict(sequence);
        let after = rows(&session);
        let seen = session.cache.seen(sequence, 0usize).unwrap() as i32;
        for (position, row) in &after {
            match before.iter().find(|(p, _)| p == position) {
                Some((_, old)) if old == row => unchanged += 1,
                Some(_) => changed += 1,
                None => assert!(*position >= seen - 3, "{position} has come back"),
            }
        }
        before = after;
    }
    assert!(unchanged > changed && changed > 0, "{unchanged} stayed as they were, {changed} lost bits");
}

#[test]
fn a_larger_budget_costs_the_attention_less() {
    let mut last = f64::INFINITY;
    for bits in [0.5, 1.0, 2.0, 3.0, 4.5, 6.0] {
        let set = format!("codec.retention.bits={bits:?}");
        let recipe = retained().swap_remove(2).with_overrides(&[set]).unwrap();
        let mut session = Session::new(recipe, DType::F32);
        let sequence = session.cache.start();
        session.extend(sequence, 120);
        let report = session.evict(sequence);
        assert!(report.distortion < last, "{bits}: {} after {last}", report.distortion);
        last = report.distortion;
    }
}

#[test]
fn forks_share_codes_until_they_go_their_own_ways() {
    let mut session = Session::new(small("spherical", &[]), DType::F32);
    let first = session.cache.start();
    session.extend(first, 50);
    session.evict(first);
    let alone = session.cache.bytes();
    let second = session.cache.fork(first).unwrap();
    assert_eq!(session.cache.bytes().held(), alone.held(), "a fork takes no memory");
    session.extend(second, 9);
    session.evict(second);
    // One page more for each head, in the frame of the others.
    let page = (2 * 8 * (DIM / 2 + 2) + 8) as u64;
    assert_eq!(session.cache.bytes().coded, alone.coded + (LAYERS * KV_HEADS) as u64 * page);
    session.extend(first, 4);
    session.cache.remove(first).unwrap();
    session.extend(second, 1);
    assert_eq!(session.cache.coded_bytes(second).unwrap(), session.cache.bytes().coded);
    session.cache.remove(second).unwrap();
    let bytes = session.cache.bytes();
    assert_eq!((bytes.coded, bytes.in_use), (0, 0));
}

#[test]
fn evicts_once_and_codes_what_stays() {
    let recipe = TokenRecipe::named("snapkv").unwrap();
    let codec = TokenRecipe::named("spherical").unwrap().codec;
    let recipe = TokenRecipe { codec, ..recipe };
    let recipe = recipe
        .with_overrides(&[
            "budget.ratio=0.5",
            "score.window=4",
            "codec.sink=2",
            "codec.recent=5",
            "codec.page=8",
        ])
        .unwrap();
    let mut session = Session::new(recipe, DType::F32);
    let sequence = session.cache.start();
    session.extend(sequence, 80);
    let report = session.evict(sequence);
    assert_eq!(report.evicted, LAYERS * KV_HEADS * 40);
    assert_eq!(report.coded, LAYERS * KV_HEADS * 32);
    for _ in 0..12 {
        session.extend(sequence, 3);
        assert_eq!(session.evict(sequence).evicted, 0);
    }
    assert_eq!(session.cache.head_lengths(sequence, 0usize).unwrap(), [76; KV_HEADS]);
}

#[test]
fn numbers_without_codes_leave_the_cache_as_it_was() {
    for recipe in all().into_iter().chain(retained()) {
        let name = recipe.name.clone();
        let mut session = Session::new(recipe, DType::F32);
        let sequence = session.cache.start();
        session.extend(sequence, 20);
        session.evict(sequence);
        let tokens = 30;
        let positions: Vec<i32> = (20..50).collect();
        for layer in 0..LAYERS {
            let (q, mut k) =
                (session.tensor(tokens, QUERY_HEADS, 0.0), session.tensor(tokens, KV_HEADS, 0.0));
            let v = k.clone();
            // Only the last layer's cannot be coded, so the others' codes exist when it is found out.
            if layer + 1 == LAYERS
                && let Some(k) = k.as_f32_mut()
            {
                k[7] = 1e30;
            }
            let v = if name == "spherical-published" && layer + 1 == LAYERS { k.clone() } else { v };
            let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &positions, grid: None };
            session.cache.extend(sequence, layer, &new).unwrap();
        }
        let contents = |session: &Session| -> Vec<HeadContents> {
            (0..LAYERS)
                .flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)))
                .map(|(l, h)| session.cache.contents(sequence, l, h).unwrap())
                .collect()
        };
        let (bytes, held) = (session.cache.bytes(), contents(&session));
        let e = session.cache.evict(sequence);
        let refused = matches!(
            e,
            Err(Error::Core(CoreError::NonFinite { .. }) | Error::Score(ScoreError::NonFinite { .. }))
        );
        assert!(refused, "{name}: {e:?}");
        assert_eq!(session.cache.bytes(), bytes, "{name}");
        assert_eq!(contents(&session), held, "{name}");
    }
}

#[test]
fn settings_out_of_range_and_parts_that_do_not_fit_are_refused() {
    for (name, set) in [
        ("int4", "codec.keys.bits=9"),
        ("int4", "codec.values.group=0"),
        ("kivi", "codec.keys.bits=0"),
        ("spherical", "codec.keys.bits=5"),
        ("spherical", "codec.recent=0"),
        ("spherical", "codec.page=0"),
        ("spherical", "codec.page=257"),
        ("spherical-rdr", "codec.retention.bits=-1.0"),
        ("spherical-rdr", "codec.retention.window=0"),
        ("spherical-rdr", "codec.retention.window=129"),
        ("spherical-rdr", "codec.retention.every=0"),
        ("spherical-rdr", "codec.retention.hysteresis=1.0"),
        ("spherical-rdr", "codec.values.bits=4"),
        ("spherical-rdr", "codec.keys={kind=\"int\",bits=4,group=32}"),
        ("spherical-rdr", "score={kind=\"knorm\"}"),
        ("spherical", "retain=true"),
        ("spherical", "decode.every=1"),
        ("spherical", "position.kind=contiguous"),
        ("spherical", "edit={kind=\"compensate\"}"),
    ] {
        // What can never work is refused when it is read.
        let refused = TokenRecipe::named(name).unwrap().with_overrides(&[set]).unwrap_err();
        let expected =
            |e: &RecipeError| matches!(e, RecipeError::OutOfRange { .. } | RecipeError::Combination { .. });
        assert!(expected(&refused), "{name} {set}: {refused}");
    }
    for set in ["codec.keys.kind=round", "codec.keys.bit=4", "codec.keys.mean=all"] {
        assert!(TokenRecipe::named("spherical").unwrap().with_overrides(&[set]).is_err(), "{set}");
    }
    // Heads that a codec has no form for.
    let odd = TokenGeometry { head_dim_k: 36, ..geometry(DType::F32) };
    let made = |name| {
        let recipe = TokenRecipe::named(name).unwrap();
        TokenCache::new(Host::new(), odd.clone(), recipe, ModelInfo::default())
    };
    assert!(made("spherical").is_err());
    assert!(made("int4").is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any order of steps leaves bytes that are those of what is held, and attention that is that of what is held.
    #[test]
    fn any_steps_keep_the_books(
        which in any::<prop::sample::Index>(),
        steps in prop::collection::vec((0u8..5, 1usize..24), 1..14),
    ) {
        let recipes = [all(), retained()].concat();
        let mut session = Session::new(which.get(&recipes).clone(), DType::F32);
        let mut sequences = vec![session.cache.start()];
        for (step, tokens) in steps {
            let last = sequences[sequences.len() - 1];
            match step {
                0 | 1 => session.extend(last, tokens),
                2 => { session.evict(last); }
                3 => sequences.push(session.cache.fork(last).unwrap()),
                _ if sequences.len() > 1 => {
                    session.cache.remove(sequences.swap_remove(tokens % sequences.len())).unwrap();
                }
                _ => {}
            }
            if session.cache.planner().recipe().codec.unwrap().retention.is_some() {
                let (bytes, budget) = spent(&session, sequences[sequences.len() - 1]);
                prop_assert!(bytes <= budget, "{} of {}", bytes, budget);
            }
            let bytes = session.cache.bytes();
            let each: Vec<u64> = sequences.iter().map(|&s| session.cache.coded_bytes(s).unwrap()).collect();
            prop_assert!(bytes.coded <= each.iter().sum::<u64>());
            prop_assert!(bytes.coded >= each.iter().copied().max().unwrap_or(0));
            prop_assert!(bytes.in_use <= bytes.resident);
        }
        for sequence in sequences {
            session.cache.remove(sequence).unwrap();
        }
        prop_assert_eq!(session.cache.bytes().coded, 0);
        prop_assert_eq!(session.cache.bytes().in_use, 0);
    }
}
