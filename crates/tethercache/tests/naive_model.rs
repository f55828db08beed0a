//! The cache beside a naive one that copies frames about, under random sizes and random data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_testing::{
    NaiveCache, NaiveSettings, Op, Tolerance, assert_close, dense_attention, rotate_3d, tolerance,
};
use tethercache::layout::{Archive, Extent, RegionSpec};
use tethercache::prelude::*;

/// A small generator: proptest picks the seed, so that a failure shrinks to a short run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn tensor(&mut self, shape: &[usize], drift: f32) -> HostTensor {
        let data =
            (0..shape.iter().product()).map(|_| (self.next() as f32 / 2f32.powi(30) - 1.0) * 2.0 + drift);
        HostTensor::from_f32(shape, data.collect()).unwrap()
    }
}

#[derive(Clone, Debug)]
struct Case {
    settings: NaiveSettings,
    grid: (usize, usize),
    chunks: u64,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (0usize..4, 0usize..6, 1usize..4, 0usize..4, 1usize..4);
    // One token has no spread at all, and four are hardly ever so much alike that aligning them amplifies rounding; two may be.
    let grid = prop_oneof![Just((1usize, 1usize)), (2usize..4, 2usize..4)];
    let rest = (grid, 0.0f64..1.0, 0.0f64..=1.0, 0.05f64..2.0, 2u64..40, any::<u64>());
    (sizes, rest).prop_map(
        |((sink, memory, chunk, extra, heads), (grid, alpha, tau, temperature, chunks, seed))| {
            // The window is whole chunks: the recent region takes what is over.
            let least = sink + memory + chunk + extra;
            let recent = chunk + extra + (chunk - least % chunk) % chunk;
            let settings =
                NaiveSettings { sink, memory, recent, chunk, heads, dim: 6, alpha, tau, temperature };
            Case { settings, grid, chunks, seed }
        },
    )
}

fn session(case: &Case) -> KvCache<Host> {
    let s = &case.settings;
    let recipe = Recipe {
        layout: RegionSpec {
            sink: s.sink,
            memory: s.memory,
            recent: Extent::Units(s.recent),
            archive: Archive::None,
        },
        ..Recipe::tethercache()
    };
    let recipe = recipe
        .with_overrides(&[
            format!("score.diversity.alpha={:?}", s.alpha),
            format!("score.temperature={:?}", s.temperature),
            format!("edit.tau={:?}", s.tau),
        ])
        .unwrap();
    let geometry = Geometry {
        layers: 1,
        query_heads: s.heads,
        kv_heads: s.heads,
        head_dim_k: s.dim,
        head_dim_v: s.dim,
        tokens_per_unit: case.grid.0 * case.grid.1,
        units_per_chunk: s.chunk,
        sequences: 1,
        dtype: DType::F32,
        rope: RopeKind::wan(case.grid.0, case.grid.1),
    };
    KvCache::new(Host::new(), geometry, recipe).unwrap()
}

/// Runs a case and returns how many chunks were compared.
fn run(case: &Case) -> u64 {
    let s = case.settings;
    let mut random = Random(case.seed);
    let mut cache = session(case);
    let mut naive = NaiveCache::new(s);
    let tokens = s.chunk * case.grid.0 * case.grid.1;
    let shape = [tokens, s.heads, s.dim];
    let mut sink: Option<Vec<f32>> = None;
    for chunk in 0..case.chunks {
        for _ in 0..random.below(3) {
            let (k, v) = (random.tensor(&shape, 0.0), random.tensor(&shape, 0.0));
            cache.stage(0, Pass::denoise(chunk), &k, &v).unwrap();
            naive.write(chunk, k.as_f32().unwrap(), v.as_f32().unwrap());
        }
        let drift = chunk as f32 * 0.02;
        let (k, v) = (random.tensor(&shape, drift), random.tensor(&shape, -drift));
        let q = random.tensor(&shape, 0.3);
        cache.stage(0, Pass::clean(chunk), &k, &v).unwrap();
        naive.write(chunk, k.as_f32().unwrap(), v.as_f32().unwrap());
        let report = cache.commit(0, chunk, &q).unwrap();
        let kept: Vec<u64> = report.plan.memory.iter().flat_map(|m| &m.keep).map(|m| m.unit.0).collect();
        let step = naive.recall(q.as_f32().unwrap(), |step| {
            if step.gap > 1e-5 {
                return step.keep.clone();
            }
            // Too close to call in single precision: take the other side's word and compare the rest.
            let plan = &report.plan.memory[0];
            let mut candidates: Vec<u64> = plan.keep.iter().chain(&plan.drop).map(|m| m.unit.0).collect();
            candidates.sort_unstable();
            (0..candidates.len()).filter(|&i| kept.contains(&candidates[i])).collect()
        });
        if let Some(plan) = report.plan.memory.first().filter(|_| !step.scores.is_empty()) {
            let expected: Vec<f32> = step.scores.iter().map(|&s| s as f32).collect();
            assert_close("scores", &plan.scores, &expected, tolerance(Op::Score, DType::F32));
            assert_eq!(kept, naive.memory_indices(), "chunk {chunk}: memory");
            assert_eq!(report.bytes_moved, 0);
        }

        let window = &cache.tables(0).unwrap().windows()[0];
        let (indices, keys, values) = naive.window();
        let units: Vec<u64> = window.units().iter().map(|u| u.unwrap().0).collect();
        assert_eq!(units, indices, "chunk {chunk}: window");
        assert!(indices.windows(2).all(|w| w[0] < w[1]), "time order: {indices:?}");
        let (got_k, got_v) = cache.contiguous_unrotated(0, 0).unwrap();
        let (got_k, got_v) = (got_k.to_f32_vec(), got_v.to_f32_vec());
        // Channels without spread amplify rounding by sd_target / 1e-6, and an edited frame may be trusted by later ones.
        let edits = Tolerance { abs: 1e-3, rel: 1e-3 };
        assert_close("keys", &got_k, &keys, edits);
        assert_close("values", &got_v, &values, edits);
        let unit = tokens / s.chunk * s.heads * s.dim;
        let sink_now = got_k[..(s.sink * unit).min(got_k.len())].to_vec();
        if let Some(before) = &sink {
            assert_eq!(before[..], sink_now[..before.len()], "sink bytes should never change");
        }
        sink = Some(sink_now);
        let pool = cache.tables(0).unwrap().pool();
        assert_eq!(pool.in_use(), window.resident().len(), "slots in use should be slots referenced");

        let mut out = HostTensor::from_f32(&shape, vec![f32::NAN; shape.iter().product()]).unwrap();
        cache.attend(0, &q, &mut out).unwrap();
        let frames = i64::try_from(indices.len()).unwrap();
        let positions: Vec<i64> = (0..frames).collect();
        let chunk_positions = &positions[indices.len() - s.chunk..];
        let rotated_q = rotate_3d(q.as_f32().unwrap(), chunk_positions, case.grid, s.dim, 10_000.0);
        let rotated_k = rotate_3d(&got_k, &positions, case.grid, s.dim, 10_000.0);
        let heads = (s.heads, s.heads);
        let expected = dense_attention(&rotated_q, &rotated_k, &got_v, heads, (s.dim, s.dim));
        assert_close("out", out.as_f32().unwrap(), &expected, tolerance(Op::Attend, DType::F32));
        // The copy for callers with attention of their own is what `attend` read.
        let (contiguous, _) = cache.contiguous(0, 0).unwrap();
        assert_close(
            "rotated keys",
            contiguous.as_f32().unwrap(),
            &rotated_k,
            tolerance(Op::Rotate, DType::F32),
        );
    }
    case.chunks
}

/// 580 cases of 2 to 39 chunks, each with up to two noisy passes and a clean one: nearly 12 000 chunk steps.
#[test]
fn agrees_with_a_cache_that_copies_frames() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 580,
        source_file: Some(file!()),
        ..ProptestConfig::default()
    });
    let steps = std::cell::Cell::new(0u64);
    runner
        .run(&case(), |case| {
            steps.set(steps.get() + run(&case));
            Ok(())
        })
        .unwrap();
    assert!(steps.get() >= 10_000, "only {} chunk steps were compared", steps.get());
}

/// One long run: nothing drifts out of bounds.
#[test]
fn stays_within_its_budget_for_ten_thousand_chunks() {
    let settings = NaiveSettings {
        sink: 1,
        memory: 3,
        recent: 2,
        chunk: 1,
        heads: 1,
        dim: 6,
        alpha: 0.35,
        tau: 0.35,
        temperature: 0.2,
    };
    let mut cache = session(&Case { settings, grid: (1, 1), chunks: 0, seed: 0 });
    let resident = cache.bytes().resident;
    let mut random = Random(7);
    for chunk in 0..10_000 {
        let (k, v) = (random.tensor(&[1, 1, 6], 0.0), random.tensor(&[1, 1, 6], 0.0));
        cache.stage(0, Pass::clean(chunk), &k, &v).unwrap();
        cache.commit(0, chunk, &k).unwrap();
        let tables = cache.tables(0).unwrap();
        assert!(tables.pool().in_use() <= 6);
        let memory: Vec<_> = tables.windows()[0].memory_units().into_iter().flatten().collect();
        assert!(memory.windows(2).all(|w| w[0] < w[1]));
    }
    assert_eq!(cache.bytes().resident, resident);
    assert_eq!(cache.bytes().full_history, 10_000 * cache.geometry().unit_bytes() as u64);
}
