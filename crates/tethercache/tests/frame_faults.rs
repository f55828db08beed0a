//! A backend fails at its n-th call, for every n, under every recipe for frames: a layer is as it was or as it is to be, the same call again ends where an
//! undisturbed one does, and no slot is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use rayon::prelude::*;
use tether_testing::backends::{Faulty, Watch};
use tethercache::core::{Member, Readback, SlotId, UnitIndex};
use tethercache::host::CodedHost;
use tethercache::prelude::*;
use tethercache::{ErrorKind, PassKind, catalogue};

const LAYERS: usize = 2;
const SEQUENCES: usize = 2;
const FRAME: usize = 4;
const CHUNK: usize = 2;
const DIM: usize = 16;
const CHUNKS: u64 = 9;

fn geometry() -> Geometry {
    Geometry {
        layers: LAYERS,
        query_heads: 2,
        kv_heads: 1,
        head_dim_k: DIM,
        head_dim_v: 8,
        tokens_per_unit: FRAME,
        units_per_chunk: CHUNK,
        sequences: SEQUENCES,
        dtype: DType::F32,
        rope: RopeKind::wan(2, 2),
    }
}

/// Recipes with small regions, so that frames leave, are recalled and are edited.
fn recipes() -> Vec<Recipe> {
    let small = |name: &str| {
        let sizes: &[&str] = match name {
            "fifo" => &["layout.recent=4"],
            "sink-recent" => &["layout.sink=2", "layout.recent=4"],
            "retrieval" => &["layout.sink=2", "layout.memory=2", "layout.recent=4", "layout.archive=5"],
            "full" => &[],
            _ => &["layout.sink=2", "layout.memory=4", "layout.recent=2"],
        };
        Recipe::named(name).unwrap().with_overrides(sizes).unwrap()
    };
    let frames = catalogue().iter().filter(|c| c.unit == "frame");
    let mut all: Vec<Recipe> = frames.map(|c| small(c.name)).collect();
    let mixed = small("tethercache").with_overrides(&["compat=official"]).unwrap();
    all.push(Recipe { name: "tethercache, mixed".to_owned(), ..mixed });
    all
}

/// One call of a session.
#[derive(Clone, Copy, Debug)]
enum Step {
    Stage(u64, PassKind, usize),
    Recall(u64, usize),
    Commit(u64, usize),
    /// All layers that are not committed.
    CommitAll(u64),
    Attend(u64, usize),
}

/// A video: every other chunk is committed for all layers together, after its clean pass has attended.
fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    for chunk in 0..CHUNKS {
        let together = chunk % 2 == 1;
        for kind in [PassKind::Denoise, PassKind::Clean] {
            for layer in 0..LAYERS {
                steps.extend([Step::Stage(chunk, kind, layer), Step::Recall(chunk, layer)]);
                if kind == PassKind::Clean && !together {
                    steps.push(Step::Commit(chunk, layer));
                }
                steps.push(Step::Attend(chunk, layer));
            }
        }
        if together {
            steps.push(Step::CommitAll(chunk));
        }
    }
    steps
}

/// Numbers that depend on where they are and on nothing else, so that a step may be taken again.
fn noise(shape: &[usize], seed: u64) -> HostTensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    HostTensor::from_f32(shape, data.collect()).unwrap()
}

/// What is seen of one layer.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    slots: Vec<Vec<SlotId>>,
    units: Vec<Vec<Option<UnitIndex>>>,
    pending: Vec<Vec<Member>>,
    archive: Vec<Vec<Member>>,
    end: u64,
    contents: Vec<Vec<f32>>,
}

struct Session<E: Engine> {
    cache: KvCache<Faulty<E>>,
    watch: Watch,
    /// What attention gave, when a step has attended.
    out: Option<Vec<f32>>,
}

impl<E: Engine> Session<E> {
    fn new(engine: E, recipe: &Recipe) -> Self {
        let watch = Watch::new();
        let cache = KvCache::new(Faulty::watched(engine, watch.clone()), geometry(), recipe.clone()).unwrap();
        Self { cache, watch, out: None }
    }

    /// A tensor of the caller's, which is no call of the session.
    fn made(&self, shape: &[usize], seed: u64) -> E::Tensor {
        self.cache.engine().inner().upload(&noise(shape, seed)).unwrap()
    }

    fn queries(&self, chunk: u64, layer: usize) -> E::Tensor {
        self.made(&geometry().query_shape(), chunk * 97 + layer as u64 + 1)
    }

    fn step(&mut self, step: Step) -> Result<(), Error> {
        let g = geometry();
        self.out = None;
        match step {
            Step::Stage(chunk, kind, layer) => {
                let seed = chunk * 31 + layer as u64 * 7 + if kind == PassKind::Clean { 3 } else { 0 };
                let (k, v) = (self.made(&g.key_shape(), seed), self.made(&g.value_shape(), seed + 1000));
                let pass = Pass { chunk: chunk.into(), kind };
                self.cache.stage(layer, pass, &k, &v).map(drop)
            }
            Step::Recall(chunk, layer) => {
                let q = self.queries(chunk, layer);
                self.cache.recall(layer, &q).map(drop)
            }
            Step::Commit(chunk, layer) => {
                let q = self.queries(chunk, layer);
                self.cache.commit(layer, chunk, &q).map(drop)
            }
            Step::CommitAll(chunk) => {
                // Of a call that was broken off, the layers before are committed.
                let queries: Vec<E::Tensor> = (0..LAYERS).map(|l| self.queries(chunk, l)).collect();
                let left = |l: &usize| self.cache.committed(*l).unwrap() <= chunk;
                let layers: Vec<(LayerId, &E::Tensor)> =
                    (0..LAYERS).filter(left).map(|l| (l.into(), &queries[l])).collect();
                self.cache.commit_layers(chunk, &layers).map(drop)
            }
            Step::Attend(chunk, layer) => {
                let q = self.queries(chunk, layer);
                let shape = g.output_shape();
                let poison = HostTensor::from_f32(&shape, vec![f32::NAN; shape.iter().product()]).unwrap();
                let mut out = self.cache.engine().inner().upload(&poison).unwrap();
                self.cache.attend(layer, &q, &mut out)?;
                self.out = Some(self.read(&out));
                Ok(())
            }
        }
    }

    fn read(&self, tensor: &E::Tensor) -> Vec<f32> {
        self.cache.engine().inner().read(&[tensor]).unwrap().wait().unwrap()[0].to_f32_vec()
    }

    fn held(&self) -> Vec<Held> {
        let layer = |layer: usize| {
            let tables = self.cache.tables(layer).unwrap();
            let windows = tables.windows();
            let resident: Vec<SlotId> = windows.iter().flat_map(|w| w.resident()).collect();
            assert_eq!(tables.pool().in_use(), resident.len(), "slots in use are those that windows hold");
            let (k, v) = self.cache.slots(layer, &resident).unwrap();
            Held {
                slots: windows.iter().map(|w| w.slots().to_vec()).collect(),
                units: windows.iter().map(|w| w.units().to_vec()).collect(),
                pending: windows.iter().map(|w| w.pending().to_vec()).collect(),
                archive: windows.iter().map(|w| w.archive().to_vec()).collect(),
                end: windows[0].end(),
                contents: vec![self.read(&k), self.read(&v)],
            }
        };
        (0..LAYERS).map(layer).collect()
    }
}

/// Every call of every step of the script fails once. Returns how many faults there were.
fn disturb<E: Engine>(engine: impl Fn() -> E, recipe: &Recipe) -> usize {
    let script = script();
    let mut undisturbed = Session::new(engine(), recipe);
    let mut states = vec![(undisturbed.held(), None)];
    let mut calls = Vec::new();
    for &step in &script {
        let before = undisturbed.watch.fallible_calls();
        undisturbed.step(step).unwrap();
        calls.push(undisturbed.watch.fallible_calls() - before);
        states.push((undisturbed.held(), undisturbed.out.clone()));
    }
    let resident = undisturbed.cache.bytes().resident;
    let faults = (0..script.len()).flat_map(|at| (0..calls[at]).map(move |n| (at, n)));
    let faults: Vec<(usize, u64)> = faults.collect();
    for &(at, n) in &faults {
        let what = format!("{}, step {at} {:?}, call {n} of {}", recipe.name, script[at], calls[at]);
        let mut session = Session::new(engine(), recipe);
        script[..at].iter().for_each(|&step| session.step(step).unwrap());
        session.watch.let_waits_fail(true);
        session.watch.fail_after(n);
        let e = session.step(script[at]).expect_err(&what);
        assert_eq!(e.kind(), ErrorKind::Device, "{what}: {e}");
        assert!(session.watch.failed().is_some(), "{what}: nothing failed");
        session.watch.disarm();
        let layers = session.held().into_iter().zip(&states[at].0).zip(&states[at + 1].0);
        for (layer, ((got, before), after)) in layers.enumerate() {
            assert!(
                got == *before || got == *after,
                "{what}: layer {layer} is neither as before nor as after"
            );
        }
        // Again, and to the end of the video.
        for (i, &step) in script.iter().enumerate().skip(at) {
            session.step(step).unwrap_or_else(|e| panic!("{what}, then step {i}: {e}"));
            assert!(session.out == states[i + 1].1, "{what}, then step {i}: what was attended to");
            if i == at || i + 1 == script.len() {
                assert!(session.held() == states[i + 1].0, "{what}, then step {i}: what is held");
            }
        }
        assert_eq!(session.cache.bytes().resident, resident, "{what}: memory");
        session.cache.reset().unwrap();
        assert_eq!(session.cache.bytes().in_use, 0, "{what}: nothing is left behind");
    }
    faults.len()
}

#[test]
fn a_layer_is_as_before_or_as_after_and_no_slot_is_lost() {
    let faults = |recipe: &Recipe| match recipe.codec {
        Some(codec) => disturb(|| CodedHost::new(Host::new(), codec), recipe),
        None => disturb(Host::new, recipe),
    };
    let faults: usize = recipes().par_iter().map(faults).sum();
    eprintln!("{faults} faults");
    assert!(faults >= 900, "{faults}");
}
