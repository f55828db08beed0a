//! Sessions of tokens on a device beside the same on the host: they keep the same tokens and attend alike, and what travels to the host is counted.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{DType, HostTensor, Pairing, Readback, TokenEngine};
use tether_host::Host;
use tether_rope::TokenRope;
use tether_score::tokens::{GridPlace, HeadProfile, LayerProfile};
use tether_testing::or_skip;
use tethercache::catalogue;
use tethercache::kernels::{Cube, ProbeError, cubecl::Runtime};
use tethercache::tokens::{
    ModelInfo, NewTokens, SequenceId, TokenAttention, TokenCache, TokenGeometry, TokenRecipe,
};

const LAYERS: usize = 2;
const QUERY_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const PROMPT: usize = 400;
const STEPS: usize = 12;

/// Recipes whose evictions read keys, values or queries back: their scorers ask for them themselves, or an editor or a codec does.
const READ_AT_EVICTIONS: [&str; 9] =
    ["merging", "hack", "rekv", "int8", "int4", "kivi", "spherical", "spherical-rdr", "spherical-published"];
/// Recipes whose steps do: what is read is chosen on the host for each token, or attention to codes is made there.
const READ_AT_STEPS: [&str; 8] =
    ["quest", "rekv", "int8", "int4", "kivi", "spherical", "spherical-rdr", "spherical-published"];

/// Recipes that are chosen by where the scores are, so that no score travels.
const CHOSEN_THERE: [&str; 17] = [
    "snapkv",
    "adakv",
    "pyramidkv",
    "chunkkv",
    "window-kv",
    "criticalkv",
    "expected-attention",
    "flowcache",
    "dapq",
    "lagkv",
    "st-lite",
    "h2o",
    "observed-attention",
    "tova",
    "knorm",
    "keydiff",
    "question-guided",
];

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

fn facts() -> ModelInfo {
    let layer = |other: f32| LayerProfile {
        echo: vec![0.1, 0.3],
        induction: vec![0.9 * other, 0.2],
        variance: vec![0.5, 2.0 + other],
    };
    ModelInfo {
        rope: Some(TokenRope::new(Pairing::Half, 10_000.0, DIM).unwrap()),
        output_projections: vec![
            (0..16 * QUERY_HEADS * DIM).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            LAYERS
        ],
        head_profile: Some(HeadProfile { layers: vec![layer(0.3), layer(1.0)], ..HeadProfile::default() }),
    }
}

/// Xorshift, roughly normal.
struct Noise(u64);

impl Noise {
    fn tensor(&mut self, shape: &[usize]) -> HostTensor {
        let mut next = || {
            let mut sum = 0.0;
            for _ in 0..4 {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            1.7 * sum
        };
        HostTensor::from_f32(shape, (0..shape.iter().product()).map(|_| next()).collect()).unwrap()
    }
}

fn small(name: &str) -> TokenRecipe {
    let recipe = TokenRecipe::named(name).unwrap();
    let fitted: &[&str] = match name {
        "snapkv" | "adakv" | "pyramidkv" => &["score.window=8"],
        "criticalkv" => &["score.base.window=8"],
        "chunkkv" => &["score.window=8", "select.length=5"],
        "expected-attention" => &["score.future=8"],
        "question-guided" => &["score.question=6"],
        "flowcache" => &["score.window=8"],
        "lagkv" => &["score.lag=8"],
        "window-kv" => &["score.suffix=8", "budget.layers.shared=2"],
        "razor-attention" => &["budget.ratio=0.4", "budget.heads.induction=0.25", "decode.every=3"],
        "hack" => &["edit.threshold=0"],
        "elastic-cache" => &["decode.place.distance=-4"],
        "dapq" => &["score.first=1", "score.last=3", "score.recent=4"],
        "quest" => &["score.page=4", "select.size=4", "budget.dense=0"],
        "rekv" => &["score.block=4", "score.init=4", "score.question=4", "select.size=4", "select.top=4"],
        "spherical-rdr" => &[
            "codec.sink=2",
            "codec.recent=5",
            "codec.page=8",
            "codec.retention.window=4",
            "codec.retention.every=3",
        ],
        "int8" | "int4" | "kivi" | "spherical" | "spherical-published" => {
            &["codec.sink=2", "codec.recent=5", "codec.page=8"]
        }
        _ => &[],
    };
    recipe.with_overrides(fitted).unwrap()
}

/// A session, and the tensors that it is given.
struct Session<E: TokenEngine> {
    cache: TokenCache<E>,
    sequence: SequenceId,
    noise: Noise,
    seen: usize,
    /// Whether a step has read something back.
    read_at_steps: bool,
}

impl<E: TokenEngine> Session<E> {
    fn new(engine: E, recipe: TokenRecipe, dtype: DType) -> Self {
        let mut cache = TokenCache::new(engine, geometry(dtype), recipe, facts()).unwrap();
        let sequence = cache.start();
        Self { cache, sequence, noise: Noise(0x51), seen: 0, read_at_steps: false }
    }

    /// Reads tokens, and returns what they attended to.
    fn extend(&mut self, sequence: SequenceId, tokens: usize) -> Vec<Vec<f32>> {
        let dtype = self.cache.geometry().dtype;
        let positions: Vec<i32> = (self.seen..self.seen + tokens).map(|p| p as i32).collect();
        let place =
            |t: i32| Some(GridPlace { frame: t as u32 / 24, row: t as u32 / 6 % 4, column: t as u32 % 6 });
        let grid: Vec<_> = positions.iter().map(|&t| place(t)).collect();
        let grid = self.cache.planner().needs().grid.then_some(grid);
        let mut outputs = Vec::new();
        for layer in 0..LAYERS {
            let mut upload = |heads: usize| {
                let numbers = self.noise.tensor(&[tokens, heads, DIM]).to_f32_vec();
                let data = tether_core::TensorData::narrowed(dtype, &numbers);
                let tensor = HostTensor::new(&[tokens, heads, DIM], data).unwrap();
                self.cache.engine().upload(&tensor).unwrap()
            };
            let (q, k, v) = (upload(QUERY_HEADS), upload(KV_HEADS), upload(KV_HEADS));
            let new = NewTokens {
                raw_q: Some(&q),
                grid: grid.as_deref(),
                ..NewTokens::new(&q, &k, &v, &positions)
            };
            let before = self.cache.engine().traffic().read_back;
            let out = self.cache.extend(sequence, layer, &new).unwrap();
            let read = self.cache.engine().traffic().read_back - before;
            self.read_at_steps |= read > 0;
            outputs.push(self.cache.engine().read(&[&out]).unwrap().wait().unwrap()[0].to_f32_vec());
        }
        self.seen += tokens;
        outputs
    }

    /// Evicts, with the probes that the recipe asks for. Returns the bytes that came back, and the tokens that stayed and that left.
    fn evict(&mut self) -> (u64, u64, u64) {
        let needs = self.cache.planner().needs();
        let probes = needs.probe_first + needs.probe_last;
        if probes > 0 && self.cache.evict_is_due(self.sequence).unwrap() {
            let probe = self.cache.fork(self.sequence).unwrap();
            self.extend(probe, probes);
            self.seen -= probes;
            self.cache.probed(self.sequence, probe).unwrap();
        }
        let before = self.cache.engine().traffic().read_back;
        let report = self.cache.evict(self.sequence).unwrap();
        let read = self.cache.engine().traffic().read_back - before;
        (read, report.kept as u64, report.evicted as u64)
    }

    fn positions(&self) -> Vec<Vec<i32>> {
        let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
        heads.map(|(l, h)| self.cache.positions(self.sequence, l, h).unwrap().into_owned()).collect()
    }
}

fn assert_near(got: &[Vec<f32>], expected: &[Vec<f32>], within: f32, what: &str) {
    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
        assert!((got - expected).abs() <= within, "{what}: {got} for {expected}");
    }
}

fn every_recipe<R: Runtime>(name: &str, probe: fn() -> Result<Cube<R>, ProbeError>, dtype: DType) {
    let Some(engine) = or_skip(name, probe()) else { return };
    if !engine.supports(dtype) {
        eprintln!("skipped: {name} does not store {dtype} here");
        return;
    }
    drop(engine);
    let within = if dtype == DType::F32 { 2e-5 } else { 3e-2 };
    for recipe in catalogue().iter().filter(|c| c.unit == "token").map(|c| small(c.name)) {
        let what = recipe.name.clone();
        // What a device of another rounding may choose otherwise is compared in f32.
        let mut device = Session::new(probe().unwrap(), recipe.clone(), dtype);
        let mut host = Session::new(Host::new(), recipe, dtype);
        let (first, second) = (device.sequence, host.sequence);
        assert_near(&device.extend(first, PROMPT), &host.extend(second, PROMPT), within, &what);
        let mut more = false;
        for step in 0..STEPS {
            let (read, kept, gone) = device.evict();
            host.evict();
            assert_eq!(device.positions(), host.positions(), "{what}, step {step}: what stays");
            more |= read > 8 * kept + 4096 * LAYERS as u64;
            if CHOSEN_THERE.contains(&what.as_str()) {
                // Numbers of those that stay or of those that leave, or means of spans, and whether each head's scores can be ranked.
                let most = 4 * kept.min(gone) + (4 * KV_HEADS * LAYERS) as u64;
                assert!(
                    read <= most,
                    "{what}, step {step}: {read} bytes for {kept} that stay, {gone} that leave"
                );
            }
            let (got, expected) = (device.extend(first, 1), host.extend(second, 1));
            assert_near(&got, &expected, within, &format!("{what}, step {step}"));
        }
        assert_eq!(
            more,
            READ_AT_EVICTIONS.contains(&what.as_str()),
            "{what}: whether evictions read more back"
        );
        let at_steps = READ_AT_STEPS.contains(&what.as_str());
        assert_eq!(device.read_at_steps, at_steps, "{what}: whether steps read something back");
        device.cache.remove(device.sequence).unwrap();
        assert_eq!(device.cache.bytes().in_use, 0, "{what}");
    }
}

/// The name by which `TETHER_REQUIRE` knows what wgpu compiles to.
#[cfg(feature = "wgpu")]
const WGPU: &str = match (cfg!(feature = "vulkan"), cfg!(feature = "metal")) {
    (true, _) => "vulkan",
    (_, true) => "metal",
    _ => "wgpu",
};

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_keeps_what_the_host_keeps() {
    every_recipe(WGPU, tethercache::kernels::wgpu, DType::F32);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_keeps_what_the_host_keeps() {
    every_recipe("cuda", tethercache::kernels::cuda, DType::F32);
}

#[cfg(feature = "rocm")]
#[test]
fn rocm_keeps_what_the_host_keeps() {
    every_recipe("rocm", tethercache::kernels::rocm, DType::F32);
}
