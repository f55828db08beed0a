//! Sessions of frames on a device beside the same on the host: they hold the same frames and attend alike, and what
//! travels is counted.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_testing::backends::{BytesMoved, Faulty, Watch};
use tether_testing::{Op, assert_close, or_skip, tolerance};
use tethercache::core::Readback;
use tethercache::kernels::{Cube, ProbeError, cubecl::Runtime};
use tethercache::prelude::*;
use tethercache::{RecipeError, catalogue};

const LAYERS: usize = 2;
const SEQUENCES: usize = 2;
const CHUNK: usize = 2;
const DIM: usize = 16;

fn geometry() -> Geometry {
    Geometry {
        layers: LAYERS,
        query_heads: 2,
        kv_heads: 1,
        head_dim_k: DIM,
        head_dim_v: DIM,
        tokens_per_unit: 6,
        units_per_chunk: CHUNK,
        sequences: SEQUENCES,
        dtype: DType::F32,
        rope: RopeKind::wan(2, 3),
    }
}

/// A recipe with small regions.
fn small(name: &str) -> Recipe {
    let sizes: &[&str] = match name {
        "fifo" => &["layout.recent=4"],
        "sink-recent" => &["layout.sink=2", "layout.recent=4"],
        "retrieval" => &["layout.sink=2", "layout.memory=2", "layout.recent=4", "layout.archive=5"],
        "full" => &[],
        _ => &["layout.sink=2", "layout.memory=4", "layout.recent=2"],
    };
    Recipe::named(name).unwrap().with_overrides(sizes).unwrap()
}

fn noise(shape: &[usize], seed: u64) -> HostTensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    HostTensor::from_f32(shape, data.collect()).unwrap()
}

/// A session, and what its calls move.
struct Session<E: Engine> {
    cache: KvCache<Faulty<E>>,
    watch: Watch,
}

impl<E: Engine> Session<E> {
    fn new(engine: E, recipe: &Recipe) -> Self {
        let watch = Watch::new();
        let cache = KvCache::new(Faulty::watched(engine, watch.clone()), geometry(), recipe.clone()).unwrap();
        Self { cache, watch }
    }

    fn up(&self, tensor: &HostTensor) -> E::Tensor {
        self.cache.engine().inner().upload(tensor).unwrap()
    }

    /// What a call moved, and how often it waited.
    fn counted<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> (T, BytesMoved, u64) {
        self.watch.reset_counts();
        let result = call(self);
        (result, self.watch.moved(), self.watch.waits())
    }

    /// Attention of a pass; nothing comes back but what the test reads.
    fn attend(&mut self, layer: usize, q: &E::Tensor) -> Vec<f32> {
        let shape = geometry().output_shape();
        let poison = HostTensor::from_f32(&shape, vec![f32::NAN; shape.iter().product()]).unwrap();
        let mut out = self.up(&poison);
        let (_, moved, waits) = self.counted(|s| s.cache.attend(layer, q, &mut out).unwrap());
        assert_eq!((moved.to_host, waits), (0, 0), "a pass reads nothing back");
        self.cache.engine().inner().read(&[&out]).unwrap().wait().unwrap()[0].to_f32_vec()
    }

    /// One pass of one layer: its attention.
    fn pass(&mut self, pass: Pass, layer: usize) -> Vec<f32> {
        let g = geometry();
        let seed = pass.chunk.0 * 31 + layer as u64 * 7 + if self.is_clean(pass) { 3 } else { 0 };
        let (k, v) = (self.up(&noise(&g.key_shape(), seed)), self.up(&noise(&g.value_shape(), seed + 1000)));
        let q = self.up(&noise(&g.query_shape(), pass.chunk.0 * 97 + layer as u64 + 1));
        let (report, moved, waits) = self.counted(|s| s.cache.stage(layer, pass, &k, &v).unwrap());
        assert_eq!((moved.to_host, waits), (0, 0), "staging reads nothing back");
        let archived = |s: &Self| -> usize {
            s.cache.tables(layer).unwrap().windows().iter().map(|w| w.archive().len()).sum()
        };
        if report.began_chunk {
            let asked = if self.recalls() { archived(self) } else { 0 };
            let (_, moved, waits) = self.counted(|s| s.cache.recall(layer, &q).unwrap());
            assert_eq!((moved.to_host, waits), (4 * asked as u64, u64::from(asked > 0)), "a recall");
        }
        if self.is_clean(pass) {
            let before = self.cache.engine().traffic();
            let (report, moved, waits) = self.counted(|s| s.cache.commit(layer, pass.chunk, &q).unwrap());
            let logits: usize = report.plan.memory.iter().map(|m| m.scores.len()).sum();
            assert_eq!((moved.to_host, waits), (4 * logits as u64, u64::from(logits > 0)), "a commit");
            let traffic = self.cache.engine().traffic().since(&before);
            assert_eq!((traffic.written, traffic.gathered, traffic.grown), (0, 0, 0), "no frame is copied");
        }
        self.attend(layer, &q)
    }

    fn is_clean(&self, pass: Pass) -> bool {
        pass.kind == tethercache::PassKind::Clean
    }

    fn recalls(&self) -> bool {
        self.cache.recipe().name == "retrieval"
    }

    fn units(&self, layer: usize) -> Vec<Vec<u64>> {
        let windows = self.cache.tables(layer).unwrap().windows();
        windows.iter().map(|w| w.units().iter().map(|u| u.unwrap().0).collect()).collect()
    }
}

fn every_recipe<R: Runtime>(name: &str, probe: fn() -> Result<Cube<R>, ProbeError>) {
    if or_skip(name, probe()).is_none() {
        return;
    }
    for row in catalogue().iter().filter(|c| c.unit == "frame") {
        let recipe = small(row.name);
        if recipe.codec.is_some() {
            let refused = KvCache::new(probe().unwrap(), geometry(), recipe).map(|_| ()).unwrap_err();
            assert!(matches!(refused, Error::Recipe(RecipeError::Combination { .. })), "{refused}");
            continue;
        }
        let mut device = Session::new(probe().unwrap(), &recipe);
        let mut host = Session::new(Host::new(), &recipe);
        for chunk in 0..9u64 {
            for pass in [Pass::denoise(chunk), Pass::denoise(chunk), Pass::clean(chunk)] {
                for layer in 0..LAYERS {
                    let what = format!("{}, {pass:?}, layer {layer}", row.name);
                    let (got, expected) = (device.pass(pass, layer), host.pass(pass, layer));
                    assert_eq!(device.units(layer), host.units(layer), "{what}");
                    assert_close(&what, &got, &expected, tolerance(Op::Attend, DType::F32));
                }
            }
        }
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
fn wgpu_holds_what_the_host_holds() {
    every_recipe(WGPU, tethercache::kernels::wgpu);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_holds_what_the_host_holds() {
    every_recipe("cuda", tethercache::kernels::cuda);
}

#[cfg(feature = "rocm")]
#[test]
fn rocm_holds_what_the_host_holds() {
    every_recipe("rocm", tethercache::kernels::rocm);
}
