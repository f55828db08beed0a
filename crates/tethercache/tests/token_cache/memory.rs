//! What heads of their own free, what a report says is freed, and what forks share.

use super::*;
use tether_core::Engine as _;
use tether_rope::Angles;
use tethercache::tokens::{KeptHead, StoredKeys, kept_heads};

#[test]
fn heads_of_their_own_free_real_memory() {
    let recipe = TokenRecipe::named("adakv").unwrap();
    let recipe = recipe.with_overrides(&["budget.ratio=0.2", "score.window=4"]).unwrap();
    let mut pair = Pair::new(recipe, 5);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 200);
    pair.evict(sequence, &mut plain);
    let lengths = pair.cache.head_lengths(sequence, 0).unwrap();
    assert_eq!(lengths.iter().sum::<usize>(), 2 * 40, "{lengths:?}");
    let bytes = pair.cache.bytes();
    assert!(bytes.resident * 4 <= bytes.full, "{bytes:?}");
    pair.extend(sequence, &mut plain, 3);
}

#[test]
fn recipes_by_kind_of_head_free_real_memory_and_keep_both_ends() {
    // A quarter of the heads is protected whole, so a fifth of the memory leaves none; and one that is.
    let razor = ["budget.ratio=0.2", "budget.heads.induction=0.1"];
    let kept_whole = ["budget.ratio=0.6", "budget.heads.induction=0.25"];
    for (recipe, overrides, recent) in [
        ("razor-attention", razor, 16),
        ("razor-attention", kept_whole, 16),
        ("hack", ["budget.ratio=0.2", "edit.threshold=0"], 16),
    ] {
        let mut pair = profiled(recipe, &overrides, 21);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        // Whole blocks of tokens, and enough of them that the last ones' share is small.
        pair.extend(sequence, &mut plain, 600);
        pair.cache.evict(sequence).unwrap();
        let bytes = pair.cache.bytes();
        if overrides[0] == "budget.ratio=0.2" {
            assert!(bytes.resident * 4 <= bytes.full, "{recipe}: {bytes:?}");
        }
        let mut lengths = BTreeSet::new();
        for layer in 0..LAYERS {
            for head in 0..KV_HEADS {
                let positions = pair.cache.positions(sequence, layer, head).unwrap();
                assert_eq!(positions[..4], [0, 1, 2, 3], "{recipe}: sinks of layer {layer}, head {head}");
                let last: Vec<i32> = (600 - recent..600).collect();
                assert!(positions.ends_with(&last), "{recipe}: layer {layer}, head {head}: {positions:?}");
                lengths.insert(positions.len());
            }
        }
        if overrides[0] != razor[0] || recipe == "hack" {
            assert!(lengths.len() > 1, "{recipe}: heads of different kinds keep different numbers");
        }
    }
}

#[test]
fn what_leaves_is_replaced_and_nothing_else_moves() {
    let recipe = TokenRecipe::named("sink-recent").unwrap();
    let recipe = recipe.with_overrides(&["budget.tokens=40", "budget.ratio=1"]).unwrap();
    let mut pair = Pair::new(recipe, 17);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 40);
    pair.evict(sequence, &mut plain);
    let rows = |pair: &Pair, layer: usize, head: usize| -> Vec<(i32, u32)> {
        let positions = pair.cache.positions(sequence, layer, head).unwrap();
        let rows = pair.cache.slot_mapping(sequence, layer, head).unwrap();
        positions.iter().copied().zip(rows).collect()
    };
    for step in 0..100 {
        pair.extend(sequence, &mut plain, 1);
        let before = rows(&pair, 1, 1);
        let written = pair.cache.engine().traffic().written;
        assert_eq!(pair.evict(sequence, &mut plain), LAYERS * KV_HEADS);
        let after = rows(&pair, 1, 1);
        let moved = after.iter().filter(|row| !before.contains(row)).count();
        assert_eq!(moved, 1, "step {step}: the newest token goes where the oldest was");
        // A key and a value of each head.
        let written = pair.cache.engine().traffic().written - written;
        assert_eq!(written as usize, LAYERS * KV_HEADS * 2 * DIM * size_of::<f32>());
    }
    // A fork reads the same blocks; what either does from here on, the other does not see.
    let (fork, mut other) = (pair.cache.fork(sequence).unwrap(), plain.clone());
    pair.sequences.push(fork);
    for _ in 0..30 {
        pair.extend(sequence, &mut plain, 2);
        pair.evict(sequence, &mut plain);
        pair.extend(fork, &mut other, 1);
        pair.evict(fork, &mut other);
    }
}

/// Enough heads that some may keep everything within a fifth of the memory.
fn many_heads() -> TokenGeometry {
    TokenGeometry { query_heads: 16, kv_heads: 8, ..geometry() }
}

/// Layers of `tokens` tokens: queries, keys and values, `[tokens, heads, DIM]`.
fn tensors(noise: &mut Noise, tokens: usize) -> Vec<[HostTensor; 3]> {
    let g = many_heads();
    let layer = |_| [g.query_heads, g.kv_heads, g.kv_heads].map(|heads| noise.tensor(&[tokens, heads, DIM]));
    (0..g.layers).map(layer).collect()
}

/// `[tokens, heads, DIM]` as `[heads, tokens, DIM]`.
fn heads_first(x: &HostTensor) -> Vec<f32> {
    let (rows, heads) = (x.to_f32_vec(), x.shape()[1]);
    let of_head =
        |head| rows.chunks_exact(heads * DIM).flat_map(move |row| &row[head * DIM..][..DIM]).copied();
    (0..heads).flat_map(of_head).collect()
}

/// Attention of one query to what a head kept, to the token that stands for the others, and to `new` keys and values.
fn attention_to_kept(q: &[f32], kept: &KeptHead, new: &[(Vec<f32>, Vec<f32>)]) -> Vec<f64> {
    let weight = |key: &[f32], count: u64| -> f64 {
        let dot: f64 = q.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        count as f64 * (dot / (DIM as f64).sqrt()).exp()
    };
    let rows = kept.keys.chunks_exact(DIM).zip(kept.values.chunks_exact(DIM)).map(|(k, v)| (k, v, 1));
    let others = kept.compensation.iter().map(|c| (&c.key[..], &c.value[..], c.count));
    let new = new.iter().map(|(k, v)| (&k[..], &v[..], 1));
    let (mut sums, mut total) = (vec![0f64; DIM], 0.0);
    for (key, value, count) in rows.chain(others).chain(new) {
        let weight = weight(key, count);
        total += weight;
        sums.iter_mut().zip(value).for_each(|(sum, &v)| *sum += weight * f64::from(v));
    }
    sums.into_iter().map(|sum| sum / total).collect()
}

#[test]
fn a_quarter_of_the_memory_and_attention_to_what_is_kept() {
    const TEXT: usize = 600;
    // Two of 16 heads keep everything; a quarter of the heads is contextual.
    let head = |h: usize| [0.9, 0.8].get(h.wrapping_sub(3)).copied().unwrap_or(0.05 * h as f32);
    let layer = |other: f32| LayerProfile {
        echo: vec![0.0; 8],
        induction: (0..8).map(|h| head(h) * other).collect(),
        variance: (0..8).map(|h| 0.1 + ((h * 5) % 8) as f32 + other).collect(),
    };
    let profile = HeadProfile { layers: vec![layer(0.1), layer(1.0)], ..HeadProfile::default() };
    for (name, overrides) in [
        ("adakv", &["budget.ratio=0.2", "score.window=8"][..]),
        ("razor-attention", &["budget.ratio=0.2", "budget.heads.induction=0.125", "budget.heads.echo=0"]),
        ("hack", &["budget.ratio=0.2", "budget.heads.contextual=0.25", "edit.threshold=0"]),
    ] {
        let recipe = TokenRecipe::named(name).unwrap().with_overrides(overrides).unwrap();
        let planner = TokenPlanner::new(recipe.clone()).unwrap().with_profile(profile.clone());
        let facts = ModelInfo { head_profile: Some(profile.clone()), ..ModelInfo::default() };
        let mut cache = TokenCache::new(Host::new(), many_heads(), recipe, facts).unwrap();
        let (mut noise, sequence, g) = (Noise(0x25), cache.start(), many_heads());
        let text = tensors(&mut noise, TEXT);
        let positions: Vec<i32> = (0..TEXT as i32).collect();
        let (mut state, mut kept) = (SequenceState::default(), Vec::new());
        for (layer, [q, k, v]) in text.iter().enumerate() {
            let new = NewTokens { q, k, v, raw_q: None, positions: &positions, grid: None };
            cache.extend(sequence, layer, &new).unwrap();
            let seen = RecordedTokens::new(
                (g.query_heads, g.kv_heads),
                TEXT,
                (DIM, DIM),
                heads_first(k),
                heads_first(v),
            );
            let seen = seen.and_then(|s| s.with_queries(heads_first(q))).unwrap();
            let turn = LayerContext { layer, layers: g.layers, seen: TEXT, decoding: false };
            let plan = planner.plan(turn, &seen, &mut state).unwrap();
            kept.push(kept_heads(&plan, &seen, None, StoredKeys::PostRope, Angles::Exact).unwrap());
        }
        let before = cache.bytes();
        let report = cache.evict(sequence).unwrap();
        let bytes = cache.bytes();
        assert!(bytes.resident * 4 <= bytes.full && bytes.held() * 4 <= bytes.full, "{name}: {bytes:?}");
        assert_eq!(report.freed_bytes, before.held() - bytes.held(), "{name}");
        assert_eq!(report.merged > 0, name == "hack");
        let whole = kept.iter().flatten().filter(|head| head.positions.len() == TEXT).count();
        assert_eq!(
            whole,
            if name == "razor-attention" { 2 } else { 0 },
            "{name}: heads that keep everything"
        );
        let stand_ins = kept.iter().flatten().filter(|head| head.compensation.is_some()).count();
        assert_eq!(stand_ins, if name == "razor-attention" { 14 } else { 0 }, "{name}");
        for (layer, heads) in kept.iter().enumerate() {
            for (head, kept) in heads.iter().enumerate() {
                assert_eq!(cache.positions(sequence, layer, head).unwrap(), kept.positions, "{name}");
            }
        }
        // Tokens that come then, one of them alone.
        let (mut new, mut seen) = (vec![vec![Vec::new(); g.kv_heads]; g.layers], TEXT);
        for count in [3, 1] {
            let positions: Vec<i32> = (seen..seen + count).map(|p| p as i32).collect();
            for (layer, [q, k, v]) in tensors(&mut noise, count).iter().enumerate() {
                let tokens = NewTokens { q, k, v, raw_q: None, positions: &positions, grid: None };
                let got = cache.extend(sequence, layer, &tokens).unwrap().to_f32_vec();
                let (q, k, v) = (q.to_f32_vec(), k.to_f32_vec(), v.to_f32_vec());
                let row = |x: &[f32], row: usize| x[row * DIM..][..DIM].to_vec();
                for token in 0..count {
                    for (head, new) in new[layer].iter_mut().enumerate() {
                        let at = token * g.kv_heads + head;
                        new.push((row(&k, at), row(&v, at)));
                    }
                    for head in 0..g.query_heads {
                        let (at, of) = (token * g.query_heads + head, head / g.group());
                        let expected = attention_to_kept(&row(&q, at), &kept[layer][of], &new[layer][of]);
                        for (got, expected) in row(&got, at).iter().zip(expected) {
                            let off = (f64::from(*got) - expected).abs();
                            assert!(off < 1e-5, "{name}, layer {layer}, head {head}: {got} for {expected}");
                        }
                    }
                }
            }
            seen += count;
        }
    }
}

#[test]
fn what_is_freed_is_what_memory_falls_by() {
    let head = 2 * DIM * size_of::<f32>();
    for (recipe, overrides, on_host) in [
        ("knorm", &["budget.ratio=0.3"][..], 0),
        ("adakv", &["budget.ratio=0.3", "score.window=4"], 0),
        ("merging", &["budget.ratio=0.3"], 0),
        // One token for the others in all heads but the one that is kept whole.
        (
            "razor-attention",
            &["budget.ratio=0.4", "budget.heads.induction=0.25"],
            (LAYERS * KV_HEADS - 1) * head,
        ),
        // The keys of the sinks, which move again.
        ("streaming-llm", &["budget.ratio=0.3"], LAYERS * KV_HEADS * 4 * head / 2),
    ] {
        let mut pair = profiled(recipe, overrides, 51);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        pair.extend(sequence, &mut plain, 400);
        let pools = |pair: &Pair| -> u64 {
            let of =
                |layer| pair.cache.pools(layer).map(|(k, v)| ((k.len() + v.len()) * size_of::<f32>()) as u64);
            (0..LAYERS).map(|layer| of(layer).unwrap()).sum()
        };
        let before = pools(&pair);
        let report = pair.evicted(sequence).unwrap();
        let fell = before - pools(&pair);
        assert!(fell * 2 > before, "{recipe}: {report:?}");
        assert_eq!(report.freed_bytes, fell - on_host as u64, "{recipe}");
        assert_eq!(report.resident_bytes, pools(&pair) + on_host as u64, "{recipe}");
        // Nothing is due.
        assert_eq!(pair.evicted(sequence).unwrap().freed_bytes, 0, "{recipe}");
    }
    // What a fork still reads is not free.
    let mut pair = profiled("knorm", &["budget.ratio=0.3"], 52);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 400);
    let copy = pair.cache.fork(sequence).unwrap();
    pair.sequences.push(copy);
    let before = pair.cache.bytes();
    let report = pair.evicted(sequence).unwrap();
    assert_eq!((report.freed_bytes, report.evicted), (0, LAYERS * KV_HEADS * 280));
    assert!(report.resident_bytes > before.held(), "the blocks that stay are copies");
}

/// All of what the heads of a sequence hold, as bits.
fn bits(cache: &TokenCache<Host>, sequence: SequenceId) -> Vec<(Vec<i32>, Vec<u32>, Vec<u32>)> {
    let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
    let of = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect();
    heads
        .map(|(l, h)| cache.contents(sequence, l, h).unwrap())
        .map(|c| (c.positions, of(c.keys), of(c.values)))
        .collect()
}

#[test]
fn a_merge_leaves_a_fork_as_it_was() {
    for (recipe, overrides) in [
        ("merging", &["budget.ratio=0.4"][..]),
        ("merging", &["budget.ratio=0.4", "decode.every=5"]),
        ("elastic-cache", &["budget.ratio=0.4", "decode.every=3"]),
        ("hack", &["budget.ratio=0.3", "edit.threshold=0"]),
    ] {
        let mut pair = profiled(recipe, overrides, 61);
        let (first, mut plain) = (pair.start(), Plain::new());
        pair.extend(first, &mut plain, 150);
        let second = pair.cache.fork(first).unwrap();
        pair.sequences.push(second);
        let before = bits(&pair.cache, second);
        let report = pair.evicted(first).unwrap();
        assert!(report.evicted > 0 && report.merged > 0, "{recipe}: {report:?}");
        assert!(bits(&pair.cache, second) == before, "{recipe}: the fork is as it was");
        assert!(bits(&pair.cache, first) != before, "{recipe}");
        // The fork goes on as if it were alone, and then it is the other that must not change.
        let merged = bits(&pair.cache, first);
        pair.extend(second, &mut plain, 3);
        assert!(bits(&pair.cache, first) == merged, "{recipe}: new tokens of the fork");
        assert!(pair.evicted(second).unwrap().merged > 0, "{recipe}");
        assert!(bits(&pair.cache, first) == merged, "{recipe}: the fork's eviction");
        // A fork of what was merged shares blocks that are merged into again while the text grows.
        let third = pair.cache.fork(first).unwrap();
        pair.sequences.push(third);
        let (mut merges, mut seen) = (0, 150);
        for _ in 0..12 {
            attends_over_its_rows(&mut pair, first, seen, &Plain::new(), false);
            merges += pair.evicted(first).unwrap().merged;
            seen += 1;
            assert!(bits(&pair.cache, third) == merged, "{recipe}: the fork of what was merged");
        }
        let again = pair.cache.planner().recipe().decode.is_some_and(|d| d.place.is_none());
        assert_eq!(merges > 0, again, "{recipe}");
        pair.cache.remove(first).unwrap();
        pair.check_blocks();
        assert!(bits(&pair.cache, third) == merged, "{recipe}: alone");
    }
}

/// A token that comes after a text of 400.
fn one_token(pair: &mut Pair, sequence: SequenceId) {
    let mut noise = Noise(0x1);
    for layer in 0..LAYERS {
        let mut tensor = |heads| noise.tensor(&[1, heads, DIM]);
        let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
        let new = NewTokens::new(&q, &k, &v, &[400]).raw_queries(&q);
        pair.cache.extend(sequence, layer, &new).unwrap();
    }
}

#[test]
fn forks_of_one_text_are_evicted_from_once() {
    for (name, overrides) in [
        ("knorm", &["budget.ratio=0.5"][..]),
        ("snapkv", &["budget.ratio=0.5", "score.window=8"]),
        ("streaming-llm", &["budget.ratio=0.5"]),
        ("merging", &["budget.ratio=0.5"]),
    ] {
        let mut pair = profiled(name, overrides, 71);
        let (first, mut plain) = (pair.start(), Plain::new());
        pair.extend(first, &mut plain, 400);
        let mut alone = profiled(name, overrides, 71);
        let (single, mut other) = (alone.start(), Plain::new());
        alone.extend(single, &mut other, 400);
        alone.evicted(single).unwrap();
        let forks: Vec<SequenceId> = (0..7).map(|_| pair.cache.fork(first).unwrap()).collect();
        pair.sequences.extend(&forks);
        let all: Vec<SequenceId> = forks.iter().copied().chain([first]).collect();
        for (n, &sequence) in all.iter().enumerate() {
            assert!(pair.evicted(sequence).unwrap().evicted > 0, "{name}");
            if n == 0 {
                // The one that evicted first goes on, into pages that the others come to share.
                one_token(&mut pair, sequence);
            }
        }
        let (eight, one) = (pair.cache.bytes(), alone.cache.bytes());
        assert!(
            eight.in_use * 10 <= one.in_use * 11 + 10 * 2 * 4 * geometry().block_bytes(),
            "{name}: {eight:?}, one {one:?}"
        );
        for &sequence in &all[1..] {
            assert!(bits(&pair.cache, sequence) == bits(&alone.cache, single), "{name}");
        }
        // What one of them does then, the others do not see.
        let before = bits(&pair.cache, all[2]);
        one_token(&mut pair, all[1]);
        assert!(bits(&pair.cache, all[2]) == before, "{name}");
        for &sequence in &all {
            pair.cache.remove(sequence).unwrap();
        }
        assert_eq!(pair.cache.bytes().in_use, 0, "{name}");
    }
}
