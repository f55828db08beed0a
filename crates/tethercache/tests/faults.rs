//! A backend fails at its n-th call, for every n: each layer is as it was or as it is to be, nothing that stays is lost, and the same call again ends where an undisturbed one does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::{DType, HostTensor, Pairing};
use tether_host::Host;
use tether_rope::TokenRope;
use tether_score::tokens::{GridPlace, HeadProfile, LayerProfile};
use tether_testing::backends::{Faulty, Watch};
use tethercache::tokens::{
    HeadContents, ModelInfo, NewTokens, SequenceId, TokenAttention, TokenCache, TokenGeometry, TokenRecipe,
};
use tethercache::{Error, ErrorKind, catalogue};

const LAYERS: usize = 2;
const QUERY_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;

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

fn facts() -> ModelInfo {
    let layer = |other: f32| LayerProfile {
        echo: vec![0.1, 0.3],
        induction: vec![0.9 * other, 0.2],
        variance: vec![0.5, 2.0 + other],
    };
    let weights = (0..8 * QUERY_HEADS * DIM).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
    ModelInfo {
        rope: Some(TokenRope::new(Pairing::Half, 10_000.0, DIM).unwrap()),
        output_projections: vec![weights; LAYERS],
        head_profile: Some(HeadProfile { layers: vec![layer(0.3), layer(1.0)], ..HeadProfile::default() }),
    }
}

/// Recipes with small regions, that evict again while a text grows where they can.
fn recipes() -> Vec<TokenRecipe> {
    let small = |name: &str| {
        let fitted: &[&str] = match name {
            "snapkv" | "adakv" | "pyramidkv" => &["score.window=6", "decode.every=3"],
            "criticalkv" => &["score.base.window=6"],
            "chunkkv" => &["score.window=6", "select.length=5"],
            "expected-attention" => &["score.future=8"],
            "question-guided" => &["score.question=6"],
            "flowcache" => &["score.window=6"],
            "lagkv" => &["score.lag=6"],
            "window-kv" => &["score.suffix=6", "budget.layers.shared=2"],
            "razor-attention" => &["budget.ratio=0.4", "budget.heads.induction=0.25", "decode.every=3"],
            "hack" => &["edit.threshold=0", "decode.every=3"],
            "merging" => &["decode.every=3"],
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
        TokenRecipe::named(name).unwrap().with_overrides(fitted).unwrap()
    };
    catalogue().iter().filter(|c| c.unit == "token").map(|c| small(c.name)).collect()
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

/// What a test does to a session.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Some tokens, in all layers.
    Extend(usize),
    /// An eviction, with the probes that the recipe asks for.
    Evict,
}

/// All that a sequence holds, `[layer][head]`.
type Held = Vec<Vec<HeadContents>>;

struct Session {
    cache: TokenCache<Faulty<Host>>,
    watch: Watch,
    sequence: SequenceId,
    fork: SequenceId,
    seen: usize,
    /// Layers that have the tokens of a step that failed.
    done: usize,
}

impl Session {
    /// A text, a fork of it that goes on by itself, and what the script does then.
    fn new(recipe: &TokenRecipe, script: &[Step]) -> Self {
        let watch = Watch::new();
        let engine = Faulty::watched(Host::new(), watch.clone());
        let mut cache = TokenCache::new(engine, geometry(), recipe.clone(), facts()).unwrap();
        let sequence = cache.start();
        let mut session = Self { cache, watch, sequence, fork: sequence, seen: 0, done: 0 };
        session.step(Step::Extend(41)).unwrap();
        session.fork = session.cache.fork(sequence).unwrap();
        for &step in script {
            if matches!(step, Step::Evict) {
                session.probe();
            }
            session.step(step).unwrap();
        }
        session
    }

    /// Tensors that depend on where in the text they are and on nothing else, so that a step may be taken again.
    fn extend(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), Error> {
        let positions: Vec<i32> = (self.seen..self.seen + tokens).map(|p| p as i32).collect();
        let place =
            |t: i32| Some(GridPlace { frame: t as u32 / 24, row: t as u32 / 6 % 4, column: t as u32 % 6 });
        let grid: Vec<_> = positions.iter().map(|&t| place(t)).collect();
        let grid = self.cache.planner().needs().grid.then_some(grid);
        while self.done < LAYERS {
            let mut noise = Noise((self.seen * LAYERS + self.done + 1) as u64 * 0x9E37_79B9);
            let mut tensor = |heads| noise.tensor(&[tokens, heads, DIM]);
            let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
            let new = NewTokens {
                raw_q: Some(&q),
                grid: grid.as_deref(),
                ..NewTokens::new(&q, &k, &v, &positions)
            };
            self.cache.extend(sequence, self.done, &new)?;
            self.done += 1;
        }
        self.done = 0;
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Extend(tokens) => {
                self.extend(self.sequence, tokens)?;
                self.seen += tokens;
                Ok(())
            }
            Step::Evict => self.cache.evict(self.sequence).map(drop),
        }
    }

    /// Probes, which are no part of the step that is disturbed.
    fn probe(&mut self) {
        let needs = self.cache.planner().needs();
        let probes = needs.probe_first + needs.probe_last;
        if probes > 0 && self.cache.evict_is_due(self.sequence).unwrap() {
            let probe = self.cache.fork(self.sequence).unwrap();
            self.extend(probe, probes).unwrap();
            self.cache.probed(self.sequence, probe).unwrap();
        }
    }

    fn held(&self, sequence: SequenceId) -> Held {
        let heads =
            |layer| (0..KV_HEADS).map(move |head| self.cache.contents(sequence, layer, head).unwrap());
        (0..LAYERS).map(|layer| heads(layer).collect()).collect()
    }

    /// Every page is in use as often as lists name it.
    fn check_pages(&self, what: &str) {
        for layer in 0..LAYERS {
            let pool = self.cache.block_pool(layer).unwrap();
            let mut named = vec![0; pool.capacity()];
            for sequence in [self.sequence, self.fork] {
                let lists = self.cache.block_lists(sequence, layer).unwrap();
                lists.into_iter().flatten().for_each(|&page| named[page as usize] += 1);
            }
            let counted: Vec<u32> = (0..pool.capacity() as u32).map(|page| pool.references(page)).collect();
            assert_eq!(counted, named, "{what}, layer {layer}: references");
        }
    }
}

/// Takes a step with every call of it failing once. Returns how many faults there were.
fn disturb(recipe: &TokenRecipe, script: &[Step], step: Step, every: usize) -> usize {
    let start = || {
        let mut session = Session::new(recipe, script);
        if matches!(step, Step::Evict) {
            session.probe();
        }
        session
    };
    let mut undisturbed = start();
    let (before, fork) = (undisturbed.held(undisturbed.sequence), undisturbed.held(undisturbed.fork));
    let calls = undisturbed.watch.fallible_calls();
    undisturbed.step(step).unwrap();
    let calls = (undisturbed.watch.fallible_calls() - calls) as usize;
    let after = undisturbed.held(undisturbed.sequence);
    let mut faults = 0;
    // Not the same calls of every recipe where some are left out.
    for n in (recipe.name.len() % every..calls).step_by(every) {
        let what = format!("{}, {script:?}, {step:?}, call {n} of {calls}", recipe.name);
        let mut session = start();
        session.watch.let_waits_fail(true);
        session.watch.fail_after(n as u64);
        match session.step(step) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Device, "{what}: {e}"),
            // Memory that is not given back now is given back later.
            Ok(()) => assert!(matches!(step, Step::Evict), "{what} went through"),
        }
        assert!(session.watch.failed().is_some(), "{what}: nothing failed");
        session.watch.disarm();
        session.check_pages(&what);
        for (layer, got) in session.held(session.sequence).iter().enumerate() {
            let whole = *got == before[layer] || *got == after[layer];
            assert!(whole, "{what}: layer {layer} is neither as before nor as after");
        }
        assert!(session.held(session.fork) == fork, "{what}: the fork is as it was");
        session.step(step).unwrap_or_else(|e| panic!("{what}, again: {e}"));
        session.check_pages(&what);
        assert!(session.held(session.sequence) == after, "{what}: ends where an undisturbed one does");
        assert!(session.held(session.fork) == fork, "{what}: the fork is as it was");
        // And goes on.
        session.step(Step::Extend(2)).unwrap();
        session.cache.remove(session.sequence).unwrap();
        session.cache.remove(session.fork).unwrap();
        assert_eq!(session.cache.bytes().in_use, 0, "{what}: nothing is left behind");
        faults += 1;
    }
    faults
}

/// Sessions of any steps, and the step that is disturbed.
fn random_script(seed: u64) -> (Vec<Step>, Step) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut step = || match below(3) {
        0 => Step::Evict,
        _ => Step::Extend(1 + below(6) as usize),
    };
    let script: Vec<Step> = (0..2 + seed % 5).map(|_| step()).collect();
    (script, step())
}

/// A sample of all faults; all of them, and of many more sessions, with `TETHER_FAULTS=all`.
#[test]
fn a_layer_is_as_before_or_as_after_and_nothing_is_lost() {
    use rayon::prelude::*;
    let all = std::env::var("TETHER_FAULTS").is_ok_and(|v| v == "all");
    let (every, sessions) = if all { (1, 40) } else { (3, 3) };
    let fixed: [(&[Step], Step); 5] = [
        (&[], Step::Extend(7)),
        (&[], Step::Evict),
        (&[Step::Evict], Step::Extend(1)),
        (&[Step::Evict, Step::Extend(3)], Step::Evict),
        (&[Step::Evict, Step::Extend(3), Step::Evict, Step::Extend(9)], Step::Evict),
    ];
    let fixed = fixed.into_iter().map(|(script, step)| (script.to_vec(), step));
    let scripts: Vec<(Vec<Step>, Step)> = fixed.chain((1..=sessions).map(random_script)).collect();
    let faults = |recipe: &TokenRecipe| -> usize {
        scripts.iter().map(|(script, step)| disturb(recipe, script, *step, every)).sum()
    };
    let faults: usize = recipes().par_iter().map(faults).sum();
    eprintln!("{faults} faults");
    assert!(faults >= if all { 20_000 } else { 1_000 }, "{faults}");
}
