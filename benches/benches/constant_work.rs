//! The host's part of a decoded token and of an eviction: a backend that does nothing, 32 layers of 8 key heads, after texts of 1 thousand to a million tokens.
//! A token's must not depend on how long the text is.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use tether_core::DType;
use tether_testing::backends::{Null, NullTensor};
use tethercache::tokens::{
    ModelInfo, NewTokens, SequenceId, TokenAttention, TokenCache, TokenGeometry, TokenRecipe,
};

const LAYERS: usize = 32;
const HEADS: usize = 8;
const GROUP: usize = 4;
const DIM: usize = 128;

fn tensor(tokens: usize, heads: usize) -> NullTensor {
    NullTensor::new(&[tokens, heads, DIM], DType::BF16)
}

/// Tokens through all layers.
fn extend(cache: &mut TokenCache<Null>, sequence: SequenceId, positions: &[i32], attend: bool) {
    let tokens = positions.len();
    let (q, k) = (tensor(tokens, HEADS * GROUP), tensor(tokens, HEADS));
    let new = NewTokens::new(&q, &k, &k, positions);
    for layer in 0..LAYERS {
        if attend {
            std::hint::black_box(cache.extend(sequence, layer, &new).expect("the tokens should fit"));
        } else {
            cache.append(sequence, layer, &new).expect("the tokens should fit");
        }
    }
}

/// A cache, and a text of so many tokens in it.
fn text(recipe: TokenRecipe, tokens: i32) -> (TokenCache<Null>, SequenceId) {
    let geometry = TokenGeometry {
        layers: LAYERS,
        query_heads: HEADS * GROUP,
        kv_heads: HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: 16,
        dtype: DType::BF16,
        attention: TokenAttention::default(),
    };
    let mut cache =
        TokenCache::new(Null, geometry, recipe, ModelInfo::default()).expect("the recipe should fit");
    let sequence = cache.start();
    let positions: Vec<i32> = (0..tokens).collect();
    for piece in positions.chunks(8_192) {
        extend(&mut cache, sequence, piece, false);
    }
    (cache, sequence)
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("host work of a token, 32 layers");
    for tokens in [1_000, 32_000, 1_000_000] {
        let recipe = TokenRecipe::named("full").expect("the recipe ships with the crate");
        let (mut cache, sequence) = text(recipe, tokens);
        cache.evict(sequence).expect("nothing is due");
        let mut position = tokens;
        group.bench_function(BenchmarkId::new("extend and evict", tokens), |b| {
            b.iter(|| {
                position += 1;
                extend(&mut cache, sequence, &[position], true);
                cache.evict(sequence).expect("nothing is due")
            });
        });
    }
    group.finish();
}

fn evict(c: &mut Criterion) {
    let mut group = c.benchmark_group("host work of an eviction, 32 layers");
    for tokens in [32_768, 131_072] {
        let recipe = TokenRecipe::named("snapkv").expect("the recipe ships with the crate");
        let recipe = recipe.with_overrides(&["budget.ratio=0.1"]).expect("the budget is a ratio");
        group.bench_function(BenchmarkId::new("snapkv, a tenth", tokens), |b| {
            let made = || text(recipe.clone(), tokens);
            let evict = |(mut cache, sequence): (TokenCache<Null>, SequenceId)| {
                cache.evict(sequence).expect("it is due");
                cache
            };
            b.iter_batched(made, evict, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = step, evict
}
criterion_main!(benches);
