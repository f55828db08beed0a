//! A retrieval method over archived frames: one file with a scorer, one recipe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "retrieval/asked_for.rs"]
mod asked_for;

use asked_for::AskedFor;
use tether_testing::{Op, assert_close, dense_attention, rotate_3d, tolerance};
use tethercache::core::{CoreError, Readback, UnitIndex};
use tethercache::layout::LayoutError;
use tethercache::prelude::*;
use tethercache::score::ScoreError;
use tethercache::{Requirement, catalogue};

const RECIPE: &str = include_str!("retrieval/asked-for.toml");
const LAYERS: usize = 2;
const GRID: (usize, usize) = (2, 2);
const FRAME: usize = GRID.0 * GRID.1;
const DIM: usize = 12;
const ARCHIVE: usize = 6;

fn recipe() -> Recipe {
    let registry = Registry::default().frame_scorer::<AskedFor>().unwrap();
    Recipe::from_toml_with(RECIPE, &registry).unwrap()
}

fn geometry() -> Geometry {
    Geometry {
        layers: LAYERS,
        query_heads: 1,
        kv_heads: 1,
        head_dim_k: DIM,
        head_dim_v: DIM,
        tokens_per_unit: FRAME,
        units_per_chunk: 1,
        sequences: 1,
        dtype: DType::F32,
        rope: RopeKind::wan(GRID.0, GRID.1),
    }
}

/// Tokens of a frame that all say `channels`, each a little otherwise.
fn tokens(channels: &[u64], seed: u64) -> HostTensor {
    let number = |i: usize| {
        let noise = ((i as u64 * 7919 + seed * 104_729) % 2003) as f32 / 20_030.0;
        noise + if channels.contains(&((i % DIM) as u64)) { 4.0 } else { 0.0 }
    };
    HostTensor::from_f32(&[FRAME, 1, DIM], (0..FRAME * DIM).map(number).collect()).unwrap()
}

/// The channel that frame `frame`'s keys point along.
fn channel(frame: u64, layer: usize) -> u64 {
    (frame * 5 + layer as u64) % DIM as u64
}

fn read<E: Engine>(engine: &E, tensors: &[&E::Tensor]) -> Vec<Vec<f32>> {
    engine.read(tensors).unwrap().wait().unwrap().iter().map(HostTensor::to_f32_vec).collect()
}

/// What a layer's archive should hold: the frames that left the recent two, but for those it has no room for.
#[derive(Default)]
struct Expected {
    archive: Vec<u64>,
    memory: Vec<u64>,
}

impl Expected {
    fn begin(&mut self, frame: u64) {
        // The first frame stays, then two and two: the fifth chunk is the first that finds no place.
        if frame < 5 {
            return;
        }
        if self.archive.is_empty() {
            self.archive = vec![1, 2];
            self.memory = vec![1, 2];
        }
        self.archive.push(frame - 2);
        while self.archive.len() > ARCHIVE {
            let oldest = self.archive.iter().position(|f| !self.memory.contains(f)).unwrap();
            self.archive.remove(oldest);
        }
    }
}

fn retrieves<E: Engine>(engine: E) {
    let mut cache = KvCache::new(engine, geometry(), recipe()).unwrap();
    let resident = cache.bytes().resident;
    let mut expected: Vec<Expected> = (0..LAYERS).map(|_| Expected::default()).collect();
    let mut recalls = 0;
    for frame in 0..40u64 {
        for denoise in [true, true, false] {
            for (layer, expected) in expected.iter_mut().enumerate() {
                let up = |t: HostTensor| cache.engine().upload(&t).unwrap();
                let (k, v) = (up(tokens(&[channel(frame, layer)], frame)), up(tokens(&[], frame + 100)));
                let pass = if denoise { Pass::denoise(frame) } else { Pass::clean(frame) };
                let report = cache.stage(layer, pass, &k, &v).unwrap();
                if report.began_chunk {
                    expected.begin(frame);
                }
                let archived: Vec<u64> = archived(&cache, layer);
                assert_eq!(archived, expected.archive, "frame {frame}, layer {layer}");
                // Two frames of the archive that are no neighbours are asked for.
                let n = archived.len() as u64;
                let wanted = if n < 3 {
                    Vec::new()
                } else {
                    let first = frame % (n - 2);
                    let second = first + 2 + (frame / 3) % (n - first - 2);
                    vec![archived[first as usize], archived[second as usize]]
                };
                let channels: Vec<u64> = wanted.iter().map(|&f| channel(f, layer)).collect();
                let q = cache.engine().upload(&tokens(&channels, frame + 7)).unwrap();
                let before = cache.engine().traffic();
                let plan = cache.recall(layer, &q).unwrap();
                let moved = cache.engine().traffic().since(&before);
                assert_eq!(moved.read_back, 4 * n, "a logit for each archived frame");
                assert_eq!((moved.written, moved.gathered, moved.edited, moved.grown), (0, 0, 0, 0));
                if n >= 3 {
                    let units: Vec<u64> = plan.memory[0].members.iter().map(|m| m.unit.0).collect();
                    assert_eq!(units, wanted, "frame {frame}, layer {layer}: {:?}", plan.memory[0].scores);
                    expected.memory = units;
                    recalls += 1;
                }
                if !denoise {
                    let report = cache.commit(layer, frame, &q).unwrap();
                    assert!(report.plan.memory.is_empty(), "an archive admits nothing");
                }
                attends_to_what_was_recalled(&mut cache, layer, &q, &expected.memory);
            }
        }
    }
    assert!(recalls > 150);
    assert_eq!(cache.bytes().resident, resident, "an archive of six frames never grows");
    let pool = cache.tables(0).unwrap().pool();
    assert_eq!((pool.capacity(), pool.in_use()), (1 + 2 + ARCHIVE, 1 + 2 + ARCHIVE));
}

fn archived<E: Engine>(cache: &KvCache<E>, layer: usize) -> Vec<u64> {
    cache.tables(layer).unwrap().windows()[0].archive().iter().map(|m| m.unit.0).collect()
}

/// The window is sink, recalled frames and recent ones, at positions that follow each other, and attention is that of them all.
fn attends_to_what_was_recalled<E: Engine>(
    cache: &mut KvCache<E>,
    layer: usize,
    q: &E::Tensor,
    memory: &[u64],
) {
    let window = &cache.tables(layer).unwrap().windows()[0];
    let units: Vec<u64> = window.units().iter().map(|u| u.unwrap().0).collect();
    if !memory.is_empty() {
        assert_eq!(units[1..3], *memory);
        assert!(units.is_sorted());
    }
    let (k, v) = cache.contiguous_unrotated(layer, 0).unwrap();
    let read_all = read(cache.engine(), &[q, &k, &v]);
    let [q_numbers, k, v] = &read_all[..] else { panic!("three tensors") };
    for (frame, keys) in units.iter().zip(k.chunks_exact(FRAME * DIM)) {
        let expected = tokens(&[channel(*frame, layer)], *frame);
        assert_eq!(keys, expected.as_f32().unwrap(), "frame {frame}");
    }
    let positions: Vec<i64> = (0..units.len() as i64).collect();
    let last = &positions[units.len() - 1..];
    let (q_turned, k_turned) =
        (rotate_3d(q_numbers, last, GRID, DIM, 1e4), rotate_3d(k, &positions, GRID, DIM, 1e4));
    let expected = dense_attention(&q_turned, &k_turned, v, (1, 1), (DIM, DIM));
    let shape = [FRAME, 1, DIM];
    let poison = HostTensor::from_f32(&shape, vec![f32::NAN; FRAME * DIM]).unwrap();
    let mut out = cache.engine().upload(&poison).unwrap();
    let before = cache.engine().traffic();
    cache.attend(layer, q, &mut out).unwrap();
    assert_eq!(cache.engine().traffic().since(&before).read_back, 0);
    let got = &read(cache.engine(), &[&out])[0];
    assert_close("out", got, &expected, tolerance(Op::Attend, DType::F32));
}

#[test]
fn the_host_retrieves() {
    retrieves(Host::new());
}

#[test]
fn a_refused_recall_changes_nothing() {
    let mut cache = KvCache::new(Host::new(), geometry(), recipe()).unwrap();
    let q = tokens(&[3], 1);
    assert!(matches!(cache.recall(0, &q), Err(Error::RecallWithoutChunk { layer: LayerId(0) })));
    for frame in 0..12u64 {
        for layer in 0..LAYERS {
            let k = tokens(&[channel(frame, layer)], frame);
            cache.stage(layer, Pass::clean(frame), &k, &k).unwrap();
            if frame < 11 {
                cache.commit(layer, frame, &q).unwrap();
            }
        }
    }
    let members = |cache: &KvCache<Host>| cache.tables(0).unwrap().windows()[0].slots().to_vec();
    let before = members(&cache);
    let mut bad = q.clone();
    bad.as_f32_mut().unwrap()[5] = f32::NAN;
    assert!(matches!(cache.recall(0, &bad), Err(Error::Score(ScoreError::NonFinite { .. }))));
    let flat = HostTensor::from_f32(&[1, 1, DIM], vec![0.0; DIM]).unwrap();
    assert!(matches!(cache.recall(0, &flat), Err(Error::Core(CoreError::ShapeMismatch { what: "q", .. }))));
    assert!(matches!(cache.recall(7, &q), Err(Error::NoSuchLayer { .. })));
    assert_eq!(members(&cache), before);
    let channels = [channel(6, 0), channel(8, 0)];
    let plan = cache.recall(0, &tokens(&channels, 3)).unwrap();
    let units: Vec<UnitIndex> = plan.memory[0].members.iter().map(|m| m.unit).collect();
    assert_eq!(units, [UnitIndex(6), UnitIndex(8)]);
    cache.commit(0, 11, &q).unwrap();
    assert!(matches!(cache.recall(0, &q), Err(Error::RecallWithoutChunk { .. })), "committed");
}

#[test]
fn a_recipe_that_does_not_recall_is_left_alone() {
    let mut cache = KvCache::new(Host::new(), geometry(), Recipe::fifo()).unwrap();
    let k = tokens(&[0], 0);
    cache.stage(0, Pass::clean(0), &k, &k).unwrap();
    let before = cache.engine().traffic();
    assert!(cache.recall(0, &k).unwrap().memory.is_empty());
    assert_eq!(cache.engine().traffic(), before);
}

#[test]
fn an_archive_must_leave_something_to_choose_from() {
    let refused = |text: &str| match recipe().with_overrides(&[text]).unwrap_err() {
        tethercache::RecipeError::OutOfRange { problem, .. } => *problem,
        other => panic!("{other}"),
    };
    assert!(matches!(
        refused("layout.archive=2"),
        Error::Layout(LayoutError::ArchiveBelowMemory { archive: 2, memory: 2 })
    ));
    assert!(matches!(refused("layout.memory=0"), Error::Layout(LayoutError::Archive)));
    assert!(recipe().with_overrides(&["layout.archive=-1"]).is_err());
    let all = recipe().with_overrides(&["layout.archive=true"]).unwrap();
    assert_eq!(Recipe::from_toml_with(&all.to_toml().unwrap(), &registry_of_all()).unwrap(), all);
    assert_eq!(recipe().requires(), [Requirement::ChunkQueries]);
    assert!(catalogue().iter().any(|row| row.needs.contains("before it attends")));
}

fn registry_of_all() -> Registry {
    Registry::default().frame_scorer::<AskedFor>().unwrap()
}

/// The same on a GPU. A runtime that is not there is skipped, with the reason, unless `TETHER_REQUIRE` names it.
#[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
mod on_a_device {
    use tether_testing::or_skip;

    use super::retrieves;

    #[cfg(feature = "wgpu")]
    #[test]
    fn wgpu_retrieves() {
        // As `TETHER_REQUIRE` names what wgpu compiles to.
        let name = match (cfg!(feature = "vulkan"), cfg!(feature = "metal")) {
            (true, _) => "vulkan",
            (_, true) => "metal",
            _ => "wgpu",
        };
        if let Some(engine) = or_skip(name, tethercache::kernels::wgpu()) {
            retrieves(engine);
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_retrieves() {
        if let Some(engine) = or_skip("cuda", tethercache::kernels::cuda()) {
            retrieves(engine);
        }
    }

    #[cfg(feature = "rocm")]
    #[test]
    fn rocm_retrieves() {
        if let Some(engine) = or_skip("rocm", tethercache::kernels::rocm()) {
            retrieves(engine);
        }
    }
}
