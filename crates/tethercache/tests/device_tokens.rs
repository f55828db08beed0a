//! Sessions of tokens on a device beside the same on the host: they keep the same tokens and attend alike, and what travels to the host is counted.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/tokens.rs"]
mod support;

use support::{DIM, KV_HEADS, LAYERS, Noise, QUERY_HEADS, facts, geometry, grid, small};
use tether_core::{DType, Engine, HostTensor, Readback, TokenEngine};
use tether_host::Host;
use tether_testing::or_skip;
use tethercache::catalogue;
use tethercache::kernels::{Cube, ProbeError, cubecl::Runtime};
use tethercache::tokens::{HeadContents, NewTokens, SequenceId, TokenBatch, TokenCache, TokenRecipe};

const PROMPT: usize = 400;
const STEPS: usize = 12;

/// Recipes whose evictions read keys, values or queries back: bits are allocated by what tokens are worth, or directions are trained.
const READ_AT_EVICTIONS: [&str; 2] = ["spherical-rdr", "spherical-published"];
/// Recipes whose steps do.
const READ_AT_STEPS: [&str; 0] = [];

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

/// A session, and the tensors that it is given.
struct Session<E: TokenEngine> {
    cache: TokenCache<E>,
    sequence: SequenceId,
    noise: Noise,
    seen: usize,
    /// Whether a step has read something back.
    read_at_steps: bool,
    /// Queries of the newest tokens, of each layer.
    queries: Vec<Vec<f32>>,
}

impl<E: TokenEngine> Session<E> {
    fn new(engine: E, recipe: TokenRecipe, dtype: DType) -> Self {
        let mut cache = TokenCache::new(engine, geometry(dtype), recipe, facts()).unwrap();
        let sequence = cache.start();
        Self { cache, sequence, noise: Noise(0x51), seen: 0, read_at_steps: false, queries: Vec::new() }
    }

    /// Reads tokens, and returns what they attended to.
    fn extend(&mut self, sequence: SequenceId, tokens: usize) -> Vec<Vec<f32>> {
        let dtype = self.cache.geometry().dtype;
        let positions: Vec<i32> = (self.seen..self.seen + tokens).map(|p| p as i32).collect();
        let grid = grid(&positions);
        let grid = self.cache.planner().needs().grid.then_some(grid);
        let mut outputs = Vec::new();
        self.queries.clear();
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
            self.queries.push(self.cache.engine().read(&[&q]).unwrap().wait().unwrap()[0].to_f32_vec());
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

    fn contents(&self) -> Vec<HeadContents> {
        let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
        heads.map(|(l, h)| self.cache.contents(self.sequence, l, h).unwrap()).collect()
    }

    /// What the newest token attends to, of all that the cache says that it holds.
    fn attention_to_contents(&self) -> Vec<Vec<f32>> {
        let contents = self.contents();
        let of_layer = |(layer, q): (usize, &Vec<f32>)| -> Vec<f32> {
            let of_head = |(head, q): (usize, &[f32])| {
                let held = &contents[layer * KV_HEADS + head / (QUERY_HEADS / KV_HEADS)];
                attention(q, &held.keys, &held.values)
            };
            q.chunks_exact(DIM).enumerate().flat_map(of_head).collect()
        };
        self.queries.iter().enumerate().map(of_layer).collect()
    }

    fn positions(&self) -> Vec<Vec<i32>> {
        let heads = (0..LAYERS).flat_map(|l| (0..KV_HEADS).map(move |h| (l, h)));
        heads.map(|(l, h)| self.cache.positions(self.sequence, l, h).unwrap().into_owned()).collect()
    }
}

/// Attention of one query in `f64`.
fn attention(q: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let logits: Vec<f64> = keys.chunks_exact(DIM).map(|k| dot(k) / (DIM as f64).sqrt()).collect();
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let rows = || weights.iter().zip(values.chunks_exact(DIM));
    (0..DIM).map(|c| rows().map(|(w, v)| w / total * f64::from(v[c])).sum::<f64>() as f32).collect()
}

/// Codes of both say the same, but where a number lies between two codes: a radius or a direction that is rounded
/// otherwise changes a row by what rounding costs.
fn assert_same_codes(got: &[HeadContents], expected: &[HeadContents], within: f32, what: &str) {
    let (mut rows, mut others) = (0, 0);
    for (got, expected) in got.iter().zip(expected) {
        let sides = [(&got.keys, &expected.keys), (&got.values, &expected.values)];
        for (got, expected) in
            sides.into_iter().flat_map(|(a, b)| a.chunks_exact(DIM).zip(b.chunks_exact(DIM)))
        {
            let apart = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let largest = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
            assert!(apart <= 0.5 * largest, "{what}: a row of codes is another one");
            (rows, others) = (rows + 1, others + usize::from(apart > within));
        }
    }
    assert!(others * 50 <= rows, "{what}: {others} of {rows} rows are not what the host's are");
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
            let step = format!("{what}, step {step}");
            if what.starts_with("spherical") {
                // Directions and radii are rounded, and a rounding that falls out otherwise is seen in the attention.
                assert_near(&got, &device.attention_to_contents(), within, &step);
                assert_same_codes(&device.contents(), &host.contents(), within, &step);
            } else {
                assert_near(&got, &expected, within, &step);
            }
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

/// Steps of several tokens, of several sequences together, of pages of several blocks, and of pages that are read
/// whatever they hold: each token reads what it reads on the host, and nothing comes back.
fn reads_pages_by_choice<R: Runtime>(name: &str, probe: fn() -> Result<Cube<R>, ProbeError>) {
    for overrides in [
        &["budget.ratio=0.3"][..],
        &["budget.ratio=0.3", "score.page=8", "select.size=8"],
        &["budget.ratio=0.4", "budget.sink=5", "budget.recent=7"],
        &["budget.tokens=100"],
    ] {
        let Some(engine) = or_skip(name, probe()) else { return };
        let recipe = small("quest").with_overrides(overrides).unwrap();
        let mut device = Session::new(engine, recipe.clone(), DType::F32);
        let mut host = Session::new(Host::new(), recipe, DType::F32);
        let (first, second) = (device.sequence, host.sequence);
        let what = format!("{overrides:?}");
        assert_near(&device.extend(first, 203), &host.extend(second, 203), 2e-5, &what);
        assert_eq!(device.evict().0, 0, "{what}: nothing leaves");
        host.evict();
        for tokens in [1, 5, 1, 9, 1] {
            let (got, expected) = (device.extend(first, tokens), host.extend(second, tokens));
            assert_near(&got, &expected, 2e-5, &format!("{what}, {tokens} tokens"));
        }
        // Drafts that are taken back leave nothing behind.
        assert_near(&device.extend(first, 7), &host.extend(second, 7), 2e-5, &what);
        device.cache.truncate(first, 7).unwrap();
        host.cache.truncate(second, 7).unwrap();
        (device.seen, host.seen) = (device.seen - 7, host.seen - 7);
        let forks = (device.cache.fork(first).unwrap(), host.cache.fork(second).unwrap());
        for step in 0..6 {
            let counts = [1 + step % 3, 1];
            let (total, seen) = (counts[0] + counts[1], device.seen as i32 + 3 * step as i32);
            let positions: Vec<i32> = counts.iter().flat_map(|&n| seen..seen + n as i32).collect();
            let starts = [0, counts[0] as u32, total as u32];
            for layer in 0..LAYERS {
                let mut noise = Noise(0x99 + (step * LAYERS + layer) as u64);
                let tensors = [QUERY_HEADS, KV_HEADS, KV_HEADS].map(|h| noise.tensor(&[total, h, DIM]));
                let on_device = tensors.each_ref().map(|x| device.cache.engine().upload(x).unwrap());
                let [q, k, v] = &on_device;
                let batch = TokenBatch {
                    sequences: &[first, forks.0],
                    starts: &starts,
                    tokens: NewTokens::new(q, k, v, &positions),
                };
                let before = device.cache.engine().traffic().read_back;
                let out = device.cache.extend_batch(layer, &batch).unwrap();
                assert_eq!(
                    device.cache.engine().traffic().read_back,
                    before,
                    "{what}: a batch reads nothing back"
                );
                let got = device.cache.engine().read(&[&out]).unwrap().wait().unwrap()[0].to_f32_vec();
                let mut expected = Vec::new();
                for (number, sequence) in [second, forks.1].into_iter().enumerate() {
                    let of = starts[number] as usize..starts[number + 1] as usize;
                    let part = |x: &HostTensor, heads: usize| {
                        let row = heads * DIM;
                        let numbers = x.to_f32_vec()[of.start * row..of.end * row].to_vec();
                        HostTensor::from_f32(&[of.len(), heads, DIM], numbers).unwrap()
                    };
                    let (q, k) = (part(&tensors[0], QUERY_HEADS), part(&tensors[1], KV_HEADS));
                    let v = part(&tensors[2], KV_HEADS);
                    let new = NewTokens::new(&q, &k, &v, &positions[of.clone()]);
                    expected.extend(host.cache.extend(sequence, layer, &new).unwrap().to_f32_vec());
                }
                assert_near(&[got], &[expected], 2e-5, &format!("{what}, batch {step}"));
            }
        }
        assert!(!device.read_at_steps, "{what}: steps read nothing back");
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

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_reads_the_pages_that_the_host_reads() {
    reads_pages_by_choice(WGPU, tethercache::kernels::wgpu);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_reads_the_pages_that_the_host_reads() {
    reads_pages_by_choice("cuda", tethercache::kernels::cuda);
}

#[cfg(feature = "rocm")]
#[test]
fn rocm_reads_the_pages_that_the_host_reads() {
    reads_pages_by_choice("rocm", tethercache::kernels::rocm);
}
