//! Many steps: forks that share pages, budgets that hold, and attention that is added up.

use super::*;

#[test]
fn forks_share_blocks_until_one_of_them_writes() {
    let recipe = TokenRecipe::named("snapkv").unwrap();
    let recipe = recipe.with_overrides(&["budget.ratio=0.5", "score.window=4"]).unwrap();
    let mut pair = Pair::new(recipe, 77);
    let (first, mut plain) = (pair.start(), Plain::new());
    pair.extend(first, &mut plain, 22);
    let alone = pair.cache.bytes();
    let second = pair.cache.fork(first).unwrap();
    pair.sequences.push(second);
    let mut other = plain.clone();
    assert_eq!(pair.cache.bytes().in_use, alone.in_use, "a fork takes no memory");
    pair.extend(second, &mut other, 1);
    // Of each head and layer the last block, half full, is a copy.
    let copies = (LAYERS * KV_HEADS) as u64 * geometry().block_bytes();
    assert_eq!(pair.cache.bytes().in_use, alone.in_use + copies);
    pair.evict(second, &mut other);
    pair.extend(first, &mut plain, 5);
    pair.extend(second, &mut other, 6);
    pair.evict(first, &mut plain);
    pair.extend(first, &mut plain, 1);
    pair.cache.remove(first).unwrap();
    pair.extend(second, &mut other, 9);
    pair.cache.remove(second).unwrap();
    assert_eq!(pair.cache.bytes().in_use, 0);
    assert!(matches!(pair.cache.evict(first), Err(Error::UnknownSequence { .. })));
}

#[test]
fn stays_within_its_budget_for_ten_thousand_steps() {
    let recipe = TokenRecipe::named("sink-recent").unwrap();
    let recipe = recipe.with_overrides(&["budget.tokens=24"]).unwrap();
    let mut cache = TokenCache::new(Host::new(), geometry(), recipe, ModelInfo::default()).unwrap();
    let mut noise = Noise(3);
    let sequence = cache.start();
    let (q, k) = (noise.tensor(&[1, QUERY_HEADS, DIM]), noise.tensor(&[1, KV_HEADS, DIM]));
    let mut most = 0;
    for step in 0..10_000 {
        for layer in 0..LAYERS {
            let new = NewTokens { q: &q, k: &k, v: &k, raw_q: None, positions: &[step], grid: None };
            cache.extend(sequence, layer, &new).unwrap();
        }
        cache.evict(sequence).unwrap();
        most = most.max(cache.bytes().resident);
    }
    assert_eq!(cache.head_lengths(sequence, 0).unwrap(), [24; KV_HEADS]);
    assert_eq!(cache.positions(sequence, 1, 1).unwrap()[..5], [0, 1, 2, 3, 9980]);
    assert!(most * 100 < cache.bytes().full, "{most} of {}", cache.bytes().full);
}

#[test]
fn accumulates_attention_as_it_happens() {
    let mut noise = Noise(11);
    let (tokens, dim) = (70, 8);
    let queries: Vec<f32> = (0..tokens * dim).map(|_| noise.next()).collect();
    let keys: Vec<f32> = (0..tokens * dim).map(|_| noise.next()).collect();
    let mut at_once = vec![0f32; tokens];
    add_causal_mass(&mut at_once, &queries, &keys, dim);
    let mut stepwise: Vec<f32> = Vec::new();
    for (from, to) in [(0, 3), (3, 69), (69, 70)] {
        stepwise.resize(to, 0.0);
        add_causal_mass(&mut stepwise, &queries[from * dim..to * dim], &keys[..to * dim], dim);
    }
    assert!((at_once.iter().sum::<f32>() - tokens as f32).abs() < 1e-3, "each query gives 1");
    for (a, b) in at_once.iter().zip(&stepwise) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}
