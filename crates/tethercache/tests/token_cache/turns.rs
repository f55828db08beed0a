//! Conversations, drafts that are taken back, batches, and attention with more than a scale.

use super::*;
use tethercache::tokens::{TokenAttention, TokenBatch};

fn extend_plain(pair: &mut Pair, sequence: SequenceId, from: usize, tokens: usize) -> Vec<Vec<f32>> {
    let positions: Vec<i32> = (from..from + tokens).map(|p| p as i32).collect();
    let places = pair.cache.planner().needs().grid.then(|| places(from..from + tokens));
    let mut outputs = Vec::new();
    for layer in 0..LAYERS {
        // Numbers that depend on where in the text they are alone.
        let mut noise = Noise((from * LAYERS + layer + 1) as u64 * 0x9E37_79B9);
        let mut tensor = |heads| noise.tensor(&[tokens, heads, DIM]);
        let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
        let new =
            NewTokens { raw_q: Some(&q), grid: places.as_deref(), ..NewTokens::new(&q, &k, &v, &positions) };
        outputs.push(pair.cache.extend(sequence, layer, &new).unwrap().to_f32_vec());
    }
    pair.check_blocks();
    outputs
}

#[test]
fn a_conversation_stays_within_its_budget() {
    const TURN: usize = 300;
    let evicting = every_recipe::recipes().into_iter().filter(|r| r.score.is_some() && !r.retain);
    let mut held_to = 0;
    for recipe in evicting {
        let name = recipe.name.clone();
        let mut pair = every_recipe::session(recipe, 0x7A);
        let sequence = pair.start();
        let mut seen = 0;
        for turn in 0..20 {
            pair.cache.begin_turn(sequence).unwrap();
            extend_plain(&mut pair, sequence, seen, TURN);
            seen += TURN;
            every_recipe::evict(&mut pair, sequence, seen, 1.0).unwrap_or_else(|e| panic!("{name}: {e}"));
            for layer in 0..LAYERS {
                let planner = pair.cache.planner();
                let context = LayerContext { layer, layers: LAYERS, seen, decoding: false };
                let Some(kept) = planner.kept(context) else { continue };
                let held: usize = pair.cache.head_lengths(sequence, layer).unwrap().iter().sum();
                // Heads of different kinds share the budget of the model.
                let heads = match planner.recipe().budget.heads {
                    tether_score::tokens::HeadBudget::Uniform {}
                    | tether_score::tokens::HeadBudget::Adaptive { .. } => KV_HEADS,
                    _ => LAYERS * KV_HEADS,
                };
                assert!(held <= heads * kept, "{name}, turn {turn}: {held} tokens of {kept} a head");
                held_to += 1;
            }
        }
        pair.cache.remove(sequence).unwrap();
        assert_eq!(pair.cache.bytes().in_use, 0, "{name}");
    }
    assert!(held_to > 20 * 20, "{held_to}");
}

#[test]
fn drafts_are_taken_back_as_if_they_had_never_come() {
    for (name, overrides) in [
        ("full", &[][..]),
        ("snapkv", &["budget.ratio=0.5", "score.window=6", "decode.every=4"]),
        ("streaming-llm", &["budget.ratio=0.5"]),
        ("tova", &["budget.ratio=0.6"]),
        ("knorm", &["budget.ratio=0.4"]),
        ("quest", &["budget.ratio=0.4", "budget.dense=0", "score.page=4", "select.size=4"]),
        ("rekv", &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=4"]),
    ] {
        let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap();
        let (mut plain, mut drafting) =
            (every_recipe::session(recipe.clone(), 1), every_recipe::session(recipe, 1));
        let (first, second) = (plain.start(), drafting.start());
        extend_plain(&mut plain, first, 0, 50);
        extend_plain(&mut drafting, second, 0, 50);
        for pair_and in [(&mut plain, first), (&mut drafting, second)] {
            pair_and.0.cache.evict(pair_and.1).unwrap();
        }
        let fork = drafting.cache.fork(second).unwrap();
        drafting.sequences.push(fork);
        for step in 0..25 {
            // Drafts of several tokens, of which the verification keeps one or all.
            let drafts = 1 + step % 6;
            extend_plain(&mut drafting, second, 1_000 + 10 * step, drafts);
            let newest = drafting.cache.newest(second).unwrap();
            assert!(newest >= drafts, "{name}");
            let refused = drafting.cache.truncate(second, newest + 1);
            assert!(
                matches!(refused, Err(Error::Settled { newest: n, .. }) if n == newest),
                "{name}: {refused:?}"
            );
            drafting.cache.truncate(second, drafts).unwrap();
            drafting.check_blocks();
            let expected = extend_plain(&mut plain, first, 50 + step, 1);
            let got = extend_plain(&mut drafting, second, 50 + step, 1);
            assert_eq!(got, expected, "{name}, step {step}");
            plain.cache.evict(first).unwrap();
            drafting.cache.evict(second).unwrap();
            for layer in 0..LAYERS {
                for head in 0..KV_HEADS {
                    let of = |pair: &Pair, s| pair.cache.contents(s, layer, head).unwrap();
                    assert_eq!(of(&drafting, second), of(&plain, first), "{name}, step {step}");
                }
            }
        }
    }
    let mut pair = Pair::new(TokenRecipe::named("h2o").unwrap(), 3);
    let sequence = pair.start();
    extend_plain(&mut pair, sequence, 0, 5);
    assert!(matches!(pair.cache.truncate(sequence, 1), Err(Error::Recipe(RecipeError::Combination { .. }))));
}

#[test]
fn a_batch_is_what_its_sequences_are_one_by_one() {
    const CODED: &[&str] = &["codec.sink=2", "codec.recent=5", "codec.page=8"];
    for name in
        ["full", "snapkv", "h2o", "tova", "streaming-llm", "int4", "kivi", "spherical", "spherical-rdr"]
    {
        let overrides: &[&str] = match name {
            "snapkv" => &["score.window=6", "decode.every=4"],
            "int4" | "kivi" | "spherical" => CODED,
            "spherical-rdr" => &[
                "codec.sink=2",
                "codec.recent=5",
                "codec.page=8",
                "codec.retention.window=4",
                "codec.retention.every=3",
            ],
            _ => &["budget.ratio=0.5"],
        };
        let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap();
        let (mut alone, mut together) =
            (every_recipe::session(recipe.clone(), 9), every_recipe::session(recipe, 9));
        let of = |pair: &mut Pair| -> Vec<SequenceId> { (0..3).map(|_| pair.start()).collect() };
        let (singles, batched) = (of(&mut alone), of(&mut together));
        let mut seen = [0usize; 3];
        let mut noise = Noise(0xBA7);
        // Prompts of different lengths, then single tokens beside a piece of a prompt.
        for (round, counts) in [[13, 1, 40], [1, 1, 1], [1, 20, 1], [1, 1, 1], [2, 1, 1]].iter().enumerate() {
            let total: usize = counts.iter().sum();
            let starts = [0, counts[0], counts[0] + counts[1], total].map(|n| n as u32);
            let positions: Vec<i32> =
                (0..3).flat_map(|s| seen[s] as i32..(seen[s] + counts[s]) as i32).collect();
            for layer in 0..LAYERS {
                let mut tensor = |heads| noise.tensor(&[total, heads, DIM]);
                let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
                let tokens = NewTokens::new(&q, &k, &v, &positions).raw_queries(&q);
                let batch = TokenBatch { sequences: &batched, starts: &starts, tokens };
                let got = together.cache.extend_batch(layer, &batch).unwrap().to_f32_vec();
                let mut expected = Vec::new();
                for (number, &sequence) in singles.iter().enumerate() {
                    let of = starts[number] as usize..starts[number + 1] as usize;
                    let part = |x: &HostTensor| {
                        let width: usize = x.shape()[1..].iter().product();
                        let rows = x.to_f32_vec()[of.start * width..of.end * width].to_vec();
                        HostTensor::from_f32(&[of.len(), x.shape()[1], x.shape()[2]], rows).unwrap()
                    };
                    let (q, k, v) = (part(&q), part(&k), part(&v));
                    let new = NewTokens::new(&q, &k, &v, &positions[of]).raw_queries(&q);
                    expected.extend(alone.cache.extend(sequence, layer, &new).unwrap().to_f32_vec());
                }
                for (got, expected) in got.iter().zip(&expected) {
                    assert!((got - expected).abs() < 1e-5, "{name}, round {round}: {got} for {expected}");
                }
            }
            for s in 0..3 {
                seen[s] += counts[s];
                alone.cache.evict(singles[s]).unwrap();
                together.cache.evict(batched[s]).unwrap();
            }
            // Tokens that are codes are in no block.
            if together.cache.bytes().coded == 0 {
                together.check_blocks();
            }
            for s in 0..3 {
                for layer in 0..LAYERS {
                    let of = |pair: &Pair, s| pair.cache.positions(s, layer, 1).unwrap().into_owned();
                    assert_eq!(of(&together, batched[s]), of(&alone, singles[s]), "{name}, round {round}");
                }
            }
        }
        let twice = [batched[0], batched[0]];
        let x = noise.tensor(&[2, QUERY_HEADS, DIM]);
        let k = noise.tensor(&[2, KV_HEADS, DIM]);
        let tokens = NewTokens::new(&x, &k, &k, &[900, 901]);
        let batch = TokenBatch { sequences: &twice, starts: &[0, 1, 2], tokens };
        assert!(together.cache.extend_batch(0, &batch).is_err(), "a sequence that is named twice");
    }
}

/// One query of attention with options, in `f64`.
fn shaped(
    tokens: &[Token],
    (q, position): (&[f32], i32),
    attention: &TokenAttention,
    (layer, head): (usize, usize),
) -> Vec<f64> {
    let options = attention.of_layer(layer, DIM);
    let mut logits = Vec::new();
    for (at, key, value) in tokens {
        let apart = position - at;
        if options.window.is_some_and(|window| apart >= window as i32) {
            continue;
        }
        let dot: f64 = q.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        let mut logit = dot * f64::from(options.scale);
        if let Some(cap) = options.softcap.map(f64::from) {
            logit = cap * (logit / cap).tanh();
        }
        if let Some(&slope) = options.alibi.get(head) {
            logit -= f64::from(slope) * f64::from(apart);
        }
        logits.push((logit, value));
    }
    let sink = options.sinks.get(head).map(|&s| f64::from(s).exp()).unwrap_or(0.0);
    let total = sink + logits.iter().map(|(l, _)| l.exp()).sum::<f64>();
    (0..DIM).map(|c| logits.iter().map(|(l, v)| l.exp() * f64::from(v[c])).sum::<f64>() / total).collect()
}

#[test]
fn attention_has_the_models_own_logits() {
    let slopes = vec![0.5, 0.25, 0.125, 0.06];
    let sinks = vec![vec![0.3, -1.0, 0.0, 2.0]; LAYERS];
    let plain = TokenAttention::default();
    for attention in [
        TokenAttention { scale: Some(0.11), ..plain.clone() },
        TokenAttention { softcap: Some(1.5), ..plain.clone() },
        TokenAttention { windows: vec![Some(7), None], ..plain.clone() },
        TokenAttention { alibi: slopes.clone(), ..plain.clone() },
        TokenAttention { sinks: sinks.clone(), ..plain },
        TokenAttention {
            scale: Some(0.3),
            softcap: Some(2.0),
            alibi: slopes,
            windows: vec![None, Some(9)],
            sinks,
        },
    ] {
        for name in ["full", "snapkv", "streaming-llm"] {
            let what = format!("{name}, {attention:?}");
            let overrides: &[&str] =
                if name == "snapkv" { &["score.window=6", "decode.every=4"] } else { &[] };
            let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap();
            let geometry = geometry().with_attention(attention.clone());
            let facts = ModelInfo { rope: Some(turning(&frequencies())), ..ModelInfo::default() };
            let mut cache = TokenCache::new(Host::new(), geometry, recipe, facts).unwrap();
            let (sequence, mut noise, mut seen) = (cache.start(), Noise(0x0B7), 0);
            for tokens in [20, 1, 1, 5, 1, 1, 1] {
                let positions: Vec<i32> = (seen..seen + tokens).collect();
                for layer in 0..LAYERS {
                    let mut tensor = |heads| noise.tensor(&[tokens as usize, heads, DIM]);
                    let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
                    let got = cache
                        .extend(sequence, layer, &NewTokens::new(&q, &k, &v, &positions))
                        .unwrap()
                        .to_f32_vec();
                    let q = q.to_f32_vec();
                    for (i, &position) in positions.iter().enumerate() {
                        for head in 0..QUERY_HEADS {
                            let held = cache.contents(sequence, layer, head / 2).unwrap();
                            let rows = held.keys.chunks_exact(DIM).zip(held.values.chunks_exact(DIM));
                            let seen: Vec<Token> = held
                                .positions
                                .iter()
                                .zip(rows)
                                .filter(|(p, _)| **p <= position)
                                .map(|(&p, (k, v))| (p, k.to_vec(), v.to_vec()))
                                .collect();
                            let at = (i * QUERY_HEADS + head) * DIM;
                            let expected =
                                shaped(&seen, (&q[at..][..DIM], position), &attention, (layer, head));
                            for (got, expected) in got[at..][..DIM].iter().zip(expected) {
                                let off = (f64::from(*got) - expected).abs();
                                assert!(off < 1e-5, "{what}: {got} for {expected}");
                            }
                        }
                    }
                }
                seen += tokens;
                cache.evict(sequence).unwrap();
            }
        }
        let windowed = geometry().with_attention(attention);
        if windowed.attention(1).is_plain() && windowed.attention(0).is_plain() {
            continue;
        }
        for name in ["h2o", "quest", "int8", "razor-attention"] {
            let (windowed, recipe) = (windowed.clone(), TokenRecipe::named(name).unwrap());
            let refused = TokenCache::new(Host::new(), windowed, recipe, every_recipe::facts());
            assert!(matches!(refused, Err(Error::Recipe(RecipeError::Combination { .. }))), "{name}");
        }
    }
}
