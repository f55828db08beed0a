//! One token's attention on the host: 30 layers of 3 key heads that 3 query heads each share (SmolLM2-135M), f32, over 400 and 4000 tokens; by the engine alone, and through a
//! session, which also writes the token and keeps its lists. Layers follow each other as in a model, so what is read does not come from the nearest cache.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tether_benches::random;
use tether_core::{
    AttendOptions, BlockTables, DType, DecodeProblem, HostTensor, NewQueries, PagedKv, TokenEngine,
};
use tether_host::{Host, HostTables};
use tether_testing::oracle::literal_decode;
use tethercache::tokens::{
    ModelInfo, NewTokens, SequenceId, TokenAttention, TokenCache, TokenGeometry, TokenRecipe,
};

const LAYERS: usize = 30;
const HEADS: usize = 3;
const GROUP: usize = 3;
const DIM: usize = 64;
const BLOCK: usize = 16;
const SCALE: f32 = 0.125;

fn tensor(shape: &[usize], seed: u64) -> HostTensor {
    let numbers = random(shape.iter().product(), seed);
    HostTensor::from_f32(shape, numbers).expect("the shape should be that of the numbers")
}

fn attend(host: &Host, q: &HostTensor, (k, v): (&HostTensor, &HostTensor), lists: &HostTables) -> HostTensor {
    let queries = NewQueries { q, starts: &[0, 1], positions: None };
    let kv = PagedKv { k, v, positions: None };
    let (out, _) = host
        .attend_paged(&queries, &kv, lists, &AttendOptions::scaled(SCALE))
        .expect("the tables should fit");
    out
}

/// What is timed is attention to all of the tables.
fn check(host: &Host, q: &HostTensor, (k, v): &(HostTensor, HostTensor), tables: &BlockTables<'_>) {
    let lists = host.upload_tables(tables).expect("the tables should fit");
    let out = attend(host, q, (k, v), &lists);
    let lists = (tables.page_size, tables.groups, 1);
    let problem = DecodeProblem::new(q.shape(), k.shape(), v.shape(), lists, tables.page_bound())
        .expect("the tables should fit");
    let [q, k, v, out] = [q, k, v, &out].map(HostTensor::to_f32_vec);
    let (expected, _) = literal_decode(&q, &k, &v, &problem, tables, SCALE);
    for (got, expected) in out.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-5, "{got} for {expected}");
    }
}

fn session(tokens: usize) -> (TokenCache<Host>, SequenceId) {
    let geometry = TokenGeometry {
        layers: LAYERS,
        query_heads: HEADS * GROUP,
        kv_heads: HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: BLOCK,
        dtype: DType::F32,
        attention: TokenAttention::default(),
    };
    let recipe = TokenRecipe::named("full").expect("the recipe ships with the crate");
    let mut cache = TokenCache::new(Host::parallel(), geometry, recipe, ModelInfo::default())
        .expect("the recipe should fit");
    let sequence = cache.start();
    let q = tensor(&[tokens, HEADS * GROUP, DIM], 1);
    let (k, v) = (tensor(&[tokens, HEADS, DIM], 2), tensor(&[tokens, HEADS, DIM], 3));
    let positions: Vec<i32> = (0..tokens as i32).collect();
    let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &positions, grid: None };
    for layer in 0..LAYERS {
        cache.append(sequence, layer, &new).expect("the tokens should fit");
    }
    (cache, sequence)
}

fn decode(c: &mut Criterion) {
    // A call from outside rayon's pool would wait for a thread of it to wake.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("there should be no pool yet");
    let host = Host::parallel();
    let q = tensor(&[1, HEADS * GROUP, DIM], 4);
    let (k, v) = (tensor(&[1, HEADS, DIM], 5), tensor(&[1, HEADS, DIM], 6));
    let mut group = c.benchmark_group("attention of a token, 30 layers");
    for tokens in [400, 4000] {
        let blocks = tokens / BLOCK;
        let pool = |seed| tensor(&[HEADS * blocks, BLOCK, 1, DIM], seed);
        let pools: Vec<(HostTensor, HostTensor)> =
            (0..LAYERS as u64).map(|layer| (pool(2 * layer + 7), pool(2 * layer + 8))).collect();
        let indptr: Vec<u32> = (0..=HEADS).map(|head| (head * blocks) as u32).collect();
        let pages: Vec<u32> = (0..(HEADS * blocks) as u32).collect();
        let lengths = [tokens as u32; HEADS];
        let tables = BlockTables {
            page_size: BLOCK,
            groups: HEADS,
            indptr: &indptr,
            pages: &pages,
            lengths: &lengths,
        };
        check(&host, &q, &pools[0], &tables);
        let lists = host.upload_tables(&tables).expect("the tables should fit");
        group.bench_function(BenchmarkId::new("engine", tokens), |b| {
            b.iter(|| {
                for (k, v) in &pools {
                    std::hint::black_box(attend(&host, &q, (k, v), &lists));
                }
            });
        });
        let (mut cache, original) = session(tokens);
        let new = NewTokens { q: &q, k: &k, v: &v, raw_q: None, positions: &[tokens as i32], grid: None };
        // Each time a fork reads the token, so that the text does not grow.
        group.bench_function(BenchmarkId::new("session", tokens), |b| {
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    let fork = cache.fork(original).expect("the sequence should be there");
                    let started = std::time::Instant::now();
                    for layer in 0..LAYERS {
                        std::hint::black_box(cache.extend(fork, layer, &new).expect("the token should fit"));
                    }
                    spent += started.elapsed();
                    cache.remove(fork).expect("the fork should be there");
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
