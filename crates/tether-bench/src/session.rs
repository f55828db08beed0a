//! Sessions of a language model's attention on the device: decode steps under a cache of tokens, a batch of ragged sequences, and an eviction of all layers.
//! The shape is Llama-3.1-8B's, 32 layers; keys, values and queries are noise made on the device, different in every layer.

use std::time::Instant;

use tether_core::{CoreError, DType, Engine, Pool, ScoreOp, TokenEngine, WindowSpec};
use tether_kernels::cubecl::Runtime;
use tether_kernels::{Cube, CubeTensor};
use tethercache::Error;
use tethercache::tokens::{
    ModelInfo, NewTokens, SequenceId, TokenAttention, TokenBatch, TokenCache, TokenGeometry, TokenRecipe,
};

use crate::Bench;
use crate::bench::{CLOSE, Timing, Work};
use crate::pages::{DIM, HEADS, KV_HEADS};
use crate::reference::{attention, relative};

const LAYERS: usize = 32;
/// Tokens that a text is filled with at a time.
const PIECE: usize = 4096;
/// Decode steps of a timing.
const STEPS: usize = 20;
/// Sequences of the batch, and its shortest and longest text.
const BATCH: usize = 64;
const RAGGED: std::ops::Range<usize> = 1_000..9_000;
/// Queries that an eviction looks at: as its authors do, and as kvpress and the recipe do.
const WINDOWS: [usize; 2] = [32, 64];

fn geometry(dtype: DType) -> TokenGeometry {
    TokenGeometry {
        layers: LAYERS,
        query_heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        block_size: 16,
        dtype,
        attention: TokenAttention::default(),
    }
}

fn core(error: Error) -> CoreError {
    match error {
        Error::Core(error) => error,
        other => CoreError::Device { engine: "a session", message: other.to_string() },
    }
}

/// Queries, keys and values of `tokens` tokens of a layer.
fn tensors<R: Runtime>(
    engine: &Cube<R>,
    dtype: DType,
    tokens: usize,
    seed: usize,
) -> Result<[CubeTensor; 3], CoreError> {
    let noise = |heads: usize, seed: usize| engine.noise(&[tokens, heads, DIM], dtype, seed as u32);
    Ok([noise(HEADS, 3 * seed)?, noise(KV_HEADS, 3 * seed + 1)?, noise(KV_HEADS, 3 * seed + 2)?])
}

fn session<R: Runtime>(
    bench: &Bench<'_, R>,
    recipe: &str,
    overrides: &[&str],
) -> Result<TokenCache<Cube<R>>, CoreError> {
    let engine = Cube::new(bench.engine.client().clone());
    let recipe = TokenRecipe::named(recipe).and_then(|r| r.with_overrides(overrides));
    let recipe = recipe.map_err(|e| core(e.into()))?;
    TokenCache::new(engine, geometry(bench.half()), recipe, ModelInfo::default()).map_err(core)
}

/// Reads a text of `tokens` tokens, whose attention nobody asks for.
fn fill<R: Runtime>(
    bench: &Bench<'_, R>,
    cache: &mut TokenCache<Cube<R>>,
    sequence: SequenceId,
    tokens: usize,
) -> Result<(), CoreError> {
    for from in (0..tokens).step_by(PIECE) {
        let count = PIECE.min(tokens - from);
        let positions: Vec<i32> = (from as i32..).take(count).collect();
        for layer in 0..LAYERS {
            let [q, k, v] =
                tensors(bench.engine, bench.half(), count, 1_000 + from / PIECE * LAYERS + layer)?;
            cache.append(sequence, layer, &NewTokens::new(&q, &k, &v, &positions)).map_err(core)?;
        }
    }
    bench.engine.wait()
}

/// One token through all layers.
fn step<R: Runtime>(
    cache: &mut TokenCache<Cube<R>>,
    sequence: SequenceId,
    layers: &[[CubeTensor; 3]],
    position: i32,
) -> Result<CubeTensor, CoreError> {
    let mut out = None;
    for (layer, [q, k, v]) in layers.iter().enumerate() {
        let new = NewTokens::new(q, k, v, std::slice::from_ref(&position));
        out = Some(cache.extend(sequence, layer, &new).map_err(core)?);
    }
    out.ok_or(CoreError::Count { what: "layers", expected: LAYERS, got: 0 })
}

/// Error of the attention of the last layer's first query head, by what the cache says it holds.
fn error<R: Runtime>(
    bench: &Bench<'_, R>,
    cache: &TokenCache<Cube<R>>,
    sequence: SequenceId,
    (q, out): (&CubeTensor, &CubeTensor),
) -> Result<f64, CoreError> {
    let held = cache.contents(sequence, LAYERS - 1, 0).map_err(core)?;
    let (q, out) = (bench.read(q)?, bench.read(out)?);
    let row = |x: &[f32], t: usize| t * DIM..(t + 1) * DIM.min(x.len());
    let scale = 1.0 / (DIM as f64).sqrt();
    let tokens = held.positions.len();
    let of = |x: &[f32], t: usize| row(x, t).start;
    let expected = attention(
        &q[..DIM],
        tokens,
        scale,
        |t| &held.keys[of(&held.keys, t)..][..DIM],
        |t| &held.values[of(&held.values, t)..][..DIM],
    );
    Ok(relative(out[..DIM].iter().map(|&x| f64::from(x)), expected))
}

/// Bytes of keys and values that a step reads.
fn bytes(tokens: usize, dtype: DType) -> f64 {
    (2 * LAYERS * tokens * KV_HEADS * DIM * dtype.bytes()) as f64
}

/// Decode steps after a text of `context` tokens, evicted from as the recipe says.
fn decode<R: Runtime>(
    bench: &mut Bench<'_, R>,
    (name, overrides): (&str, &[&str]),
    context: usize,
) -> Result<(), CoreError> {
    let mut cache = session(bench, name, overrides)?;
    let sequence = cache.start();
    fill(bench, &mut cache, sequence, context)?;
    cache.evict(sequence).map_err(core)?;
    let layers =
        (0..LAYERS).map(|l| tensors(bench.engine, bench.half(), 1, 7 + l)).collect::<Result<Vec<_>, _>>()?;
    let mut position = context as i32;
    let mut next = |cache: &mut TokenCache<Cube<R>>| -> Result<CubeTensor, CoreError> {
        position += 1;
        let out = step(cache, sequence, &layers, position)?;
        cache.evict(sequence).map_err(core)?;
        Ok(out)
    };
    // The first steps compile.
    for _ in 0..3 {
        next(&mut cache)?;
    }
    let out = step(&mut cache, sequence, &layers, position + 1)?;
    let err = error(bench, &cache, sequence, (&layers[LAYERS - 1][0], &out))?;
    position += 1;
    let held = cache.head_lengths(sequence, 0).map_err(core)?.iter().sum::<usize>() / KV_HEADS;
    let read_back = cache.engine().traffic().read_back;
    bench.engine.wait()?;
    let start = Instant::now();
    for _ in 0..STEPS {
        position += 1;
        step(&mut cache, sequence, &layers, position)?;
        cache.evict(sequence).map_err(core)?;
    }
    let host = start.elapsed().as_secs_f64() * 1e3 / STEPS as f64;
    bench.engine.wait()?;
    let timing = Timing { ms: start.elapsed().as_secs_f64() * 1e3 / STEPS as f64 };
    let read = (cache.engine().traffic().read_back - read_back) / STEPS as u64;
    let shape = format!("b1_ctx{context}_{name}_l32q32kv8d128");
    let note = format!("{held} tokens a head; host {host:.3} ms; {read} bytes back a step");
    bench.record("session_decode", shape, timing, (err, CLOSE), Work::Read(bytes(held, bench.half())), &note);
    Ok(())
}

/// One token of each of many sequences of different lengths.
fn ragged<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    let mut cache = session(bench, "full", &[])?;
    let lengths: Vec<usize> = (0..BATCH).map(|i| RAGGED.start + (i * 2_971) % RAGGED.len()).collect();
    let sequences: Vec<SequenceId> = lengths.iter().map(|_| cache.start()).collect();
    for (&sequence, &tokens) in sequences.iter().zip(&lengths) {
        fill(bench, &mut cache, sequence, tokens)?;
    }
    let layers = (0..LAYERS)
        .map(|l| tensors(bench.engine, bench.half(), BATCH, 7 + l))
        .collect::<Result<Vec<_>, _>>()?;
    let starts: Vec<u32> = (0..=BATCH as u32).collect();
    let mut round = 0;
    let mut next = |cache: &mut TokenCache<Cube<R>>| -> Result<CubeTensor, CoreError> {
        round += 1;
        let positions: Vec<i32> = lengths.iter().map(|&n| (n + round) as i32).collect();
        let mut out = None;
        for (layer, [q, k, v]) in layers.iter().enumerate() {
            let tokens = NewTokens::new(q, k, v, &positions);
            let batch = TokenBatch { sequences: &sequences, starts: &starts, tokens };
            out = Some(cache.extend_batch(layer, &batch).map_err(core)?);
        }
        out.ok_or(CoreError::Count { what: "layers", expected: LAYERS, got: 0 })
    };
    let out = next(&mut cache)?;
    let err = error(bench, &cache, sequences[0], (&layers[LAYERS - 1][0], &out))?;
    next(&mut cache)?;
    bench.engine.wait()?;
    let start = Instant::now();
    for _ in 0..STEPS {
        next(&mut cache)?;
    }
    let host = start.elapsed().as_secs_f64() * 1e3 / STEPS as f64;
    bench.engine.wait()?;
    let timing = Timing { ms: start.elapsed().as_secs_f64() * 1e3 / STEPS as f64 };
    let all: usize = lengths.iter().sum();
    let note = format!("{all} tokens; host {host:.3} ms");
    let work = Work::Read(bytes(all, bench.half()));
    bench.record("session_batch", "b64_ragged_full_l32q32kv8d128", timing, (err, CLOSE), work, &note);
    Ok(())
}

/// An eviction of all layers at once, after a text of `context` tokens, by the attention of its last `window`.
fn evict<R: Runtime>(bench: &mut Bench<'_, R>, context: usize, window: usize) -> Result<(), CoreError> {
    let window_is = format!("score.window={window}");
    let mut cache = session(bench, "snapkv", &["budget.ratio=0.1", &window_is])?;
    let layers =
        (0..LAYERS).map(|l| tensors(bench.engine, bench.half(), 1, 7 + l)).collect::<Result<Vec<_>, _>>()?;
    let mut best = f64::INFINITY;
    let mut note = String::new();
    for _ in 0..3 {
        let sequence = cache.start();
        fill(bench, &mut cache, sequence, context - 1)?;
        step(&mut cache, sequence, &layers, context as i32 - 1)?;
        bench.engine.wait()?;
        let before = (cache.engine().traffic().read_back, cache.bytes().resident);
        let start = Instant::now();
        cache.plan_eviction(sequence).map_err(core)?;
        let planned = start.elapsed().as_secs_f64() * 1e3;
        let report = cache.evict(sequence).map_err(core)?;
        bench.engine.wait()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if ms < best {
            best = ms;
            let read = cache.engine().traffic().read_back - before.0;
            let (was, now) = (before.1 >> 20, cache.bytes().resident >> 20);
            note = format!(
                "planned after {planned:.2} ms; {} of {} tokens stay; {read} bytes back; {was} MiB to {now} MiB",
                report.kept,
                report.kept + report.evicted
            );
        }
        cache.remove(sequence).map_err(core)?;
    }
    let shape = format!("b1_ctx{context}_snapkv10_w{window}_l32q32kv8d128");
    let keys = bytes(context, bench.half()) / 2.0;
    bench.record("session_evict", shape, Timing { ms: best }, (0.0, CLOSE), Work::Read(keys), &note);
    Ok(())
}

/// What an eviction of one layer is made of, each by itself: the floor of [`evict`].
fn parts<R: Runtime>(bench: &mut Bench<'_, R>, context: usize, window: usize) -> Result<(), CoreError> {
    let (engine, dtype) = (bench.engine, bench.half());
    let pool = engine.noise(&[KV_HEADS * context / 16, 16, 1, DIM], dtype, 1)?;
    let rows: Vec<u32> = (0..(KV_HEADS * context) as u32).collect();
    let rows = engine.upload_indices(&[KV_HEADS, context], &rows)?;
    let queries = engine.noise(&[HEADS, window, DIM], dtype, 2)?;
    let keys = engine.read_rows(&pool, &rows)?;
    let spec = WindowSpec { scale: 1.0 / (DIM as f32).sqrt(), pool: Pool::Mean(5) };
    let scores = engine.window_scores(&queries, &keys, &spec)?;
    let prefix = context - window;
    let kept = context / 10 - window;
    let taken = ScoreOp::Columns { first: 0, count: prefix, by: 1.0, reversed: false };
    let columns = engine.score_op(&taken, &[&scores])?;
    let chosen_from = || {
        let columns = engine.score_op(&taken, &[&scores])?;
        engine.score_op(&ScoreOp::Finite, &[&columns]).map(drop)
    };
    let row = |bytes: f64| Work::Copy(bytes);
    let all = (KV_HEADS * context * DIM * dtype.bytes()) as f64;
    let flat = (KV_HEADS * context * 4) as f64;
    for (part, work, call) in [
        (
            "rows",
            row(2.0 * all),
            &(|| engine.read_rows(&pool, &rows).map(drop)) as &dyn Fn() -> Result<(), CoreError>,
        ),
        ("scores", row(all), &|| engine.window_scores(&queries, &keys, &spec).map(drop)),
        ("columns", row(3.0 * flat), &chosen_from),
        ("top_k", row(flat), &|| engine.top_k(&columns, kept).map(drop)),
    ] {
        let timing = bench.time(1, |_| call())?;
        let shape = format!("ctx{context}_w{window}_{part}_kv8d128");
        bench.record("session_evict_part", shape, timing, (0.0, CLOSE), work, "one layer");
    }
    Ok(())
}

pub(crate) fn run<R: Runtime>(bench: &mut Bench<'_, R>) -> Result<(), CoreError> {
    for context in [32_768, 131_072] {
        decode(bench, ("full", &[]), context)?;
        decode(bench, ("snapkv", &["budget.ratio=0.1"]), context)?;
    }
    decode(bench, ("h2o", &["budget.ratio=0.1"]), 8_192)?;
    decode(bench, ("tova", &["budget.ratio=0.1"]), 32_768)?;
    ragged(bench)?;
    for window in WINDOWS {
        parts(bench, 131_072, window)?;
        evict(bench, 32_768, window)?;
        evict(bench, 131_072, window)?;
    }
    Ok(())
}
