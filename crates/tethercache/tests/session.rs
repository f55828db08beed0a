//! What a session promises: refused calls change nothing, units stay where they are, batches keep apart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tethercache::core::{CoreError, Edit, SlotId};
use tethercache::edit::{AlignMoments, EditFrames};
use tethercache::layout::{Extent, LayoutError};
use tethercache::prelude::*;
use tethercache::score::{GatedRecall, ScoreError, ScoreFrames};
use tethercache::{ErrorKind, RecipeError};

const FRAME: usize = 2;
const DIM: usize = 6;

fn geometry(layers: usize, sequences: usize) -> Geometry {
    Geometry {
        layers,
        query_heads: 2,
        kv_heads: 1,
        head_dim_k: DIM,
        head_dim_v: 4,
        tokens_per_unit: FRAME,
        units_per_chunk: 1,
        sequences,
        dtype: DType::F32,
        rope: RopeKind::wan(1, 2),
    }
}

fn small(sink: usize, memory: usize, recent: usize) -> Recipe {
    Recipe::tethercache()
        .with_overrides(&[
            format!("layout.sink={sink}"),
            format!("layout.memory={memory}"),
            format!("layout.recent={recent}"),
        ])
        .unwrap()
}

fn random(seed: u64, shape: &[usize]) -> HostTensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    HostTensor::from_f32(shape, data.collect()).unwrap()
}

struct Chunk {
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
}

fn chunk(seed: u64) -> Chunk {
    Chunk {
        q: random(seed * 3, &[FRAME, 2, DIM]),
        k: random(seed * 3 + 1, &[FRAME, 1, DIM]),
        v: random(seed * 3 + 2, &[FRAME, 1, 4]),
    }
}

fn advance(cache: &mut KvCache<Host>, from: u64, to: u64) {
    for i in from..to {
        for layer in 0..cache.geometry().layers {
            let c = chunk(i * 10 + layer as u64);
            cache.stage(layer, Pass::clean(i), &c.k, &c.v).unwrap();
            cache.commit(layer, i, &c.q).unwrap();
        }
    }
}

/// Everything that a caller can see of a layer.
fn snapshot(cache: &KvCache<Host>, layer: usize) -> (Vec<SlotId>, Vec<f32>, Vec<f32>, usize) {
    let tables = cache.tables(layer).unwrap();
    let all: Vec<SlotId> = (0..tables.pool().capacity() as u32).map(SlotId).collect();
    let (k, v) = cache.slots(layer, &all).unwrap();
    (tables.windows()[0].slots().to_vec(), k.to_f32_vec(), v.to_f32_vec(), tables.pool().in_use())
}

#[test]
fn after_warm_up_a_commit_copies_no_frame() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), small(1, 4, 2)).unwrap();
    advance(&mut cache, 0, 7);
    let mut admissions = 0;
    for i in 7..60 {
        let c = chunk(i);
        cache.stage(0, Pass::clean(i), &c.k, &c.v).unwrap();
        let (_, k_before, v_before, _) = snapshot(&cache, 0);
        let before = cache.engine().traffic();
        let report = cache.commit(0, i, &c.q).unwrap();
        let after = cache.engine().traffic();
        let (_, k_after, v_after, _) = snapshot(&cache, 0);

        let admitted: Vec<u32> = report.plan.memory[0].admit.iter().map(|m| m.slot.0).collect();
        admissions += admitted.len();
        for (before, after, dim) in [(&k_before, &k_after, DIM), (&v_before, &v_after, 4)] {
            for (slot, (b, a)) in before.chunks(FRAME * dim).zip(after.chunks(FRAME * dim)).enumerate() {
                assert!(
                    b == a || admitted.contains(&(slot as u32)),
                    "slot {slot} changed and was not admitted"
                );
            }
        }
        let copied = |t: &tethercache::core::Traffic| (t.written, t.gathered, t.grown);
        assert_eq!(copied(&before), copied(&after));
        let edited = admitted.len() as u64 * cache.geometry().unit_bytes() as u64;
        assert_eq!(
            (report.bytes_moved, report.bytes_edited, after.edited - before.edited),
            (0, edited, edited)
        );
        assert_eq!(report.bytes_freed, cache.geometry().unit_bytes() as u64);
        // The only thing that came back from the device: one logit for each candidate.
        assert_eq!(after.read_back - before.read_back, 4 * 5);
    }
    assert!(admissions > 10, "the run should admit frames, it admitted {admissions}");
}

#[test]
fn noisy_passes_read_nothing_back() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), small(1, 4, 2)).unwrap();
    advance(&mut cache, 0, 20);
    let before = cache.engine().traffic();
    let mut out = HostTensor::zeros(&[FRAME, 2, 4], DType::F32).unwrap();
    for _ in 0..5 {
        let c = chunk(99);
        cache.stage(0, Pass::denoise(20), &c.k, &c.v).unwrap();
        cache.attend(0, &c.q, &mut out).unwrap();
    }
    let after = cache.engine().traffic();
    assert_eq!(
        (before.read_back, before.gathered, before.edited),
        (after.read_back, after.gathered, after.edited)
    );
}

/// Sink 1, memory 4, recent 2: a pass rotates its own frame; the first one of a chunk, and the one after a commit, what stands elsewhere then.
#[test]
fn passes_over_a_window_share_its_rotated_keys() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), small(1, 4, 2)).unwrap();
    let mut every_time =
        KvCache::new(Host::new(), geometry(1, 1), small(1, 4, 2)).unwrap().keep_rotated(false);
    advance(&mut cache, 0, 20);
    advance(&mut every_time, 0, 20);
    let frame = (FRAME * DIM * 4) as u64;
    for i in 20..40 {
        let c = chunk(i);
        let mut frames = Vec::new();
        for pass in [Pass::denoise(i), Pass::denoise(i), Pass::denoise(i), Pass::clean(i)] {
            let mut outs = Vec::new();
            for cache in [&mut cache, &mut every_time] {
                cache.stage(0, pass, &c.k, &c.v).unwrap();
                if pass == Pass::clean(i) {
                    cache.commit(0, i, &c.q).unwrap();
                }
                let mut out = HostTensor::zeros(&[FRAME, 2, 4], DType::F32).unwrap();
                let before = cache.engine().traffic();
                cache.attend(0, &c.q, &mut out).unwrap();
                frames.push(cache.engine().traffic().since(&before).rotated / frame);
                outs.push(out);
            }
            assert_eq!(outs[0], outs[1], "chunk {i}");
        }
        let (kept, anew): (Vec<u64>, Vec<u64>) = frames.chunks_exact(2).map(|f| (f[0], f[1])).unzip();
        assert_eq!(anew, [7; 4]);
        // The recent frames have moved up; after the commit, members of memory may have, and one may be new and edited.
        assert_eq!(kept[1..3], [1, 1], "chunk {i}");
        assert!(kept[3] <= 5, "chunk {i}: {kept:?}");
        assert_eq!(kept[0], if i == 20 { 7 } else { 2 }, "chunk {i}");
    }
    assert_eq!((cache.bytes().rotated, every_time.bytes().rotated), (7 * frame, 0));
}

#[test]
fn refused_calls_change_nothing() {
    let mut cache = KvCache::new(Host::new(), geometry(2, 1), small(1, 2, 2)).unwrap();
    advance(&mut cache, 0, 8);
    let before = [snapshot(&cache, 0), snapshot(&cache, 1)];
    let c = chunk(1);
    let mut nan = c.k.clone();
    nan.as_f32_mut().unwrap()[3] = f32::NAN;
    let half = HostTensor::zeros(&[FRAME, 1, DIM], DType::F16).unwrap();
    let short = HostTensor::zeros(&[FRAME - 1, 1, DIM], DType::F32).unwrap();

    let e = cache.stage(0, Pass::denoise(8), &nan, &c.v).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::NonFinite { what: "k", index: 3 })), "{e}");
    let e = cache.stage(0, Pass::denoise(8), &half, &c.v).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::DTypeMismatch { what: "k", .. })), "{e}");
    let e = cache.stage(0, Pass::denoise(8), &short, &c.v).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::ShapeMismatch { what: "k", .. })), "{e}");
    let e = cache.stage(0, Pass::denoise(8), &c.k, &c.k).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::ShapeMismatch { what: "v", .. })), "{e}");
    for wrong in [0, 7, 9] {
        let e = cache.stage(0, Pass::denoise(wrong), &c.k, &c.v).unwrap_err();
        assert!(matches!(e, Error::ChunkOrder { expected, .. } if expected.0 == 8), "{e}");
    }
    let e = cache.stage(1, Pass::denoise(8), &c.k, &c.v).unwrap_err();
    assert!(matches!(e, Error::LayerOrder { behind: LayerId(0), .. }), "{e}");
    assert_eq!(e.to_string(), "layer 1 cannot take chunk 8: layer 0 is behind");
    let e = cache.stage(2, Pass::denoise(8), &c.k, &c.v).unwrap_err();
    assert!(matches!(e, Error::NoSuchLayer { layers: 2, .. }), "{e}");
    let e = cache.commit(0, 8, &c.q).unwrap_err();
    assert!(matches!(e, Error::CleanPassWithoutWrite { .. }), "{e}");
    let e = cache.commit(0, 7, &c.q).unwrap_err();
    assert!(matches!(e, Error::ChunkOrder { .. }), "{e}");
    let e = cache.attend(0, &c.k, &mut HostTensor::zeros(&[FRAME, 2, 4], DType::F32).unwrap()).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::ShapeMismatch { what: "q", .. })), "{e}");
    assert_eq!(before, [snapshot(&cache, 0), snapshot(&cache, 1)]);

    // A noisy pass is not a clean one, and a clean pass with NaN queries decides nothing.
    cache.stage(0, Pass::denoise(8), &c.k, &c.v).unwrap();
    assert!(matches!(cache.commit(0, 8, &c.q), Err(Error::CleanPassWithoutWrite { .. })));
    cache.stage(0, Pass::clean(8), &c.k, &c.v).unwrap();
    let before = snapshot(&cache, 0);
    let mut bad = c.q.clone();
    bad.as_f32_mut().unwrap()[0] = f32::NAN;
    let e = cache.commit(0, 8, &bad).unwrap_err();
    assert!(matches!(e, Error::Score(ScoreError::NonFinite { .. })), "{e}");
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert!(matches!(cache.commit(0, 9, &c.q), Err(Error::ChunkOrder { .. })));
    assert_eq!(before, snapshot(&cache, 0));
    cache.commit(0, 8, &c.q).unwrap();
    // Layer 1 has not seen chunk 8, so chunk 9 cannot begin anywhere.
    let e = cache.stage(0, Pass::clean(9), &c.k, &c.v).unwrap_err();
    assert!(matches!(e, Error::LayerOrder { behind: LayerId(1), .. }), "{e}");
}

#[test]
fn one_bad_layer_of_several_commits_none() {
    let mut cache = KvCache::new(Host::new(), geometry(2, 1), small(1, 2, 2)).unwrap();
    advance(&mut cache, 0, 8);
    let c = chunk(5);
    cache.stage(0, Pass::clean(8), &c.k, &c.v).unwrap();
    cache.stage(1, Pass::clean(8), &c.k, &c.v).unwrap();
    let before = [snapshot(&cache, 0), snapshot(&cache, 1)];
    let mut bad = c.q.clone();
    bad.as_f32_mut().unwrap()[1] = f32::INFINITY;
    assert!(cache.commit_layers(8, &[(LayerId(0), &c.q), (LayerId(1), &bad)]).is_err());
    assert_eq!(before, [snapshot(&cache, 0), snapshot(&cache, 1)]);
    let both = cache.commit_layers(8, &[(LayerId(0), &c.q), (LayerId(1), &c.q)]).unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(both[1].plan.layer, LayerId(1));
    assert!(!both[1].plan.memory.is_empty());
}

#[test]
fn committing_layers_together_is_committing_them_one_by_one() {
    let mut one = KvCache::new(Host::new(), geometry(2, 1), small(1, 3, 2)).unwrap();
    let mut together = KvCache::new(Host::new(), geometry(2, 1), small(1, 3, 2)).unwrap();
    for i in 0..20 {
        let chunks = [chunk(i * 2), chunk(i * 2 + 1)];
        for (layer, c) in chunks.iter().enumerate() {
            one.stage(layer, Pass::clean(i), &c.k, &c.v).unwrap();
            together.stage(layer, Pass::clean(i), &c.k, &c.v).unwrap();
        }
        let a: Vec<_> = (0..2).map(|l| one.commit(l, i, &chunks[l].q).unwrap().plan).collect();
        let b = together.commit_layers(i, &[(LayerId(0), &chunks[0].q), (LayerId(1), &chunks[1].q)]).unwrap();
        assert_eq!(a, b.into_iter().map(|r| r.plan).collect::<Vec<_>>());
    }
    assert_eq!(snapshot(&one, 1), snapshot(&together, 1));
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let new = |recipe: Recipe, chunk: usize| {
        KvCache::new(Host::new(), Geometry { units_per_chunk: chunk, ..geometry(1, 1) }, recipe).map(|_| ())
    };
    let e = new(small(2, 5, 4), 3).unwrap_err();
    assert!(matches!(e, Error::Layout(LayoutError::CapacityNotMultiple { capacity: 11, chunk: 3 })), "{e}");
    assert!(e.to_string().contains("compat"));
    let official = small(2, 5, 4).with_overrides(&["compat=official"]).unwrap();
    new(official, 3).unwrap();
    let e = new(small(4, 3, 2), 3).unwrap_err();
    assert!(matches!(e, Error::Layout(LayoutError::RecentBelowChunk { recent: 2, chunk: 3 })), "{e}");
    // Settings out of range are refused when they are read, and when they never were.
    let read = |recipe: Recipe, text| match recipe.with_overrides(&[text]).unwrap_err() {
        RecipeError::OutOfRange { problem, .. } => *problem,
        other => panic!("{other}"),
    };
    let too_strong = AlignMoments { tau: 1.5, trusted: Vec::new() }.into_part();
    let e = new(Recipe { edit: Some(too_strong), ..small(1, 2, 3) }, 3).unwrap_err();
    assert!(matches!(e, Error::Edit(_)), "{e}");
    assert_eq!(read(small(1, 2, 3), "edit.tau=1.5").to_string(), e.to_string());
    let cold = GatedRecall { temperature: 0.0, diversity: None }.into_part();
    let e = new(Recipe { score: Some(cold), ..small(1, 2, 3) }, 3).unwrap_err();
    assert!(matches!(e, Error::Score(_)), "{e}");
    assert_eq!(read(small(1, 2, 3), "score.temperature=0").to_string(), e.to_string());
    let mut huge = Recipe::fifo();
    huge.layout.recent = Extent::Units(i64::MAX as usize);
    let e = new(huge, 1).unwrap_err();
    assert!(matches!(e, Error::Layout(LayoutError::Overflow { .. })), "{e}");
    assert_eq!(read(Recipe::fifo(), "layout.recent=9223372036854775807").to_string(), e.to_string());
    let e = new(small(0, 1, 7).with_overrides(&["compat=official"]).unwrap(), 3).unwrap_err();
    assert!(matches!(e, Error::Layout(LayoutError::OfficialLabels { .. })), "{e}");
    let vast = Recipe::fifo().with_overrides(&["layout.recent=4000000000"]).unwrap();
    let wide = Geometry { head_dim_k: 1 << 20, ..geometry(1, 1) };
    let e = KvCache::new(Host::new(), wide, vast).map(|_| ()).unwrap_err();
    assert!(matches!(e, Error::Core(CoreError::OutOfMemory { .. })), "{e}");
    let mut no_selector = small(1, 2, 3);
    no_selector.select = None;
    let e = new(no_selector, 3).unwrap_err();
    assert!(matches!(e, Error::Recipe(RecipeError::Combination { .. })), "{e}");
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    let bad = Geometry { rope: RopeKind::wan(2, 2), ..geometry(1, 1) };
    assert!(KvCache::new(Host::new(), bad, Recipe::fifo()).is_err());
    let bad = Geometry { query_heads: 3, kv_heads: 2, ..geometry(1, 1) };
    assert!(KvCache::new(Host::new(), bad, Recipe::fifo()).is_err());
}

#[test]
fn an_empty_layer_has_nothing_to_attend_to() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), Recipe::fifo()).unwrap();
    let c = chunk(0);
    let mut out = HostTensor::zeros(&[FRAME, 2, 4], DType::F32).unwrap();
    assert!(matches!(cache.attend(0, &c.q, &mut out), Err(Error::Empty { .. })));
    assert!(matches!(cache.view(0), Err(Error::Empty { .. })));
}

fn units(cache: &KvCache<Host>) -> Vec<u64> {
    cache.tables(0).unwrap().windows()[0].units().iter().map(|u| u.unwrap().0).collect()
}

#[test]
fn controls_keep_what_their_names_say() {
    let run = |recipe: Recipe, chunks: u64| {
        let mut cache = KvCache::new(Host::new(), geometry(1, 1), recipe).unwrap();
        advance(&mut cache, 0, chunks);
        cache
    };
    assert_eq!(units(&run(Recipe::fifo().with_overrides(&["layout.recent=4"]).unwrap(), 7)), [3, 4, 5, 6]);
    let sink = Recipe::sink_recent().with_overrides(&["layout.sink=1", "layout.recent=3"]).unwrap();
    assert_eq!(units(&run(sink, 7)), [0, 4, 5, 6]);
    let full = run(Recipe::full(), 30);
    assert_eq!(units(&full), (0..30).collect::<Vec<_>>());
    assert_eq!(full.bytes().in_use, full.bytes().full_history);
    assert_eq!(full.view(0).unwrap().tables()[0].query_position, 29);
    let uniform = Recipe::uniform_archive()
        .with_overrides(&["layout.sink=1", "layout.memory=3", "layout.recent=2"])
        .unwrap();
    // Of frames 1 to 27 (0 is the sink, 28 and 29 are recent), the first, the middle and the last.
    let archive = run(uniform, 30);
    assert_eq!(units(&archive), [0, 1, 14, 27, 28, 29]);
    assert_eq!(archive.bytes().window, 6 * archive.geometry().unit_bytes() as u64);
    assert_eq!(archive.bytes().in_use, archive.bytes().full_history);
    // Without memory, recall and alignment have nothing to do.
    assert_eq!(units(&run(small(1, 0, 3), 7)), [0, 4, 5, 6]);
}

#[test]
fn tau_zero_leaves_memory_as_it_was_written() {
    let recipe = small(1, 4, 2).with_overrides(&["edit.tau=0.0"]).unwrap();
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), recipe).unwrap();
    advance(&mut cache, 0, 40);
    let (k, _) = cache.contiguous_unrotated(0, 0).unwrap();
    for (unit, stored) in units(&cache).into_iter().zip(k.to_f32_vec().chunks(FRAME * DIM)) {
        assert_eq!(stored, chunk(unit * 10).k.to_f32_vec(), "frame {unit}");
    }
}

fn batched(chunks: &[Chunk], part: fn(&Chunk) -> &HostTensor) -> HostTensor {
    let mut shape = vec![chunks.len()];
    shape.extend_from_slice(part(&chunks[0]).shape());
    HostTensor::from_f32(&shape, chunks.iter().flat_map(|c| part(c).to_f32_vec()).collect()).unwrap()
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let mut both = KvCache::new(Host::new(), geometry(1, 2), small(1, 3, 2)).unwrap();
    let mut alone: Vec<_> =
        (0..2).map(|_| KvCache::new(Host::new(), geometry(1, 1), small(1, 3, 2)).unwrap()).collect();
    for i in 0..25 {
        let chunks = [chunk(i * 2), chunk(i * 2 + 1)];
        both.stage(0, Pass::clean(i), &batched(&chunks, |c| &c.k), &batched(&chunks, |c| &c.v)).unwrap();
        let report = both.commit(0, i, &batched(&chunks, |c| &c.q)).unwrap();
        let mut out = HostTensor::zeros(&[2, FRAME, 2, 4], DType::F32).unwrap();
        both.attend(0, &batched(&chunks, |c| &c.q), &mut out).unwrap();
        for (s, c) in chunks.iter().enumerate() {
            alone[s].stage(0, Pass::clean(i), &c.k, &c.v).unwrap();
            let own = alone[s].commit(0, i, &c.q).unwrap();
            let kept = |r: &Report, s: usize| -> Vec<u64> {
                r.plan.memory.get(s).map(|m| m.keep.iter().map(|k| k.unit.0).collect()).unwrap_or_default()
            };
            assert_eq!(kept(&report, s), kept(&own, 0));
            let mut one = HostTensor::zeros(&[FRAME, 2, 4], DType::F32).unwrap();
            alone[s].attend(0, &c.q, &mut one).unwrap();
            assert_eq!(out.as_f32().unwrap()[s * 16..][..16], *one.as_f32().unwrap());
        }
    }
}

#[test]
fn official_statistics_are_mixed_over_the_batch() {
    let recipe = small(1, 3, 2).with_overrides(&["compat=official"]).unwrap();
    let mut cache = KvCache::new(Host::new(), geometry(1, 2), recipe).unwrap();
    let mut edits = 0;
    for i in 0..25 {
        let chunks = [chunk(i * 2), chunk(i * 2 + 1)];
        cache.stage(0, Pass::clean(i), &batched(&chunks, |c| &c.k), &batched(&chunks, |c| &c.v)).unwrap();
        let report = cache.commit(0, i, &batched(&chunks, |c| &c.q)).unwrap();
        let kept: Vec<Vec<u64>> =
            report.plan.memory.iter().map(|m| m.keep.iter().map(|k| k.unit.0).collect()).collect();
        assert!(kept.windows(2).all(|w| w[0] == w[1]), "{kept:?}");
        for edit in &report.plan.edits {
            let Edit::Align { jobs, .. } = edit else { panic!("{edit:?}") };
            edits += 1;
            assert!(jobs.iter().all(|j| j.slots.len() == 2 && j.trusted.len() == 8), "{jobs:?}");
        }
    }
    assert!(edits > 3, "{edits} edits");
}

#[test]
fn resetting_begins_another_video() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), small(1, 3, 2)).unwrap();
    advance(&mut cache, 0, 20);
    let first = snapshot(&cache, 0);
    cache.reset().unwrap();
    advance(&mut cache, 0, 20);
    assert_eq!(first, snapshot(&cache, 0));
}

#[test]
fn a_parallel_host_gives_the_same_bytes() {
    let geometry = Geometry { query_heads: 6, kv_heads: 3, ..geometry(1, 2) };
    let recipe = || Recipe::fifo().with_overrides(&["layout.recent=6"]).unwrap();
    let mut one = KvCache::new(Host::new(), geometry.clone(), recipe()).unwrap();
    let mut many = KvCache::new(Host::parallel(), geometry, recipe()).unwrap();
    for i in 0..10 {
        let (q, k, v) = (
            random(3 * i, &[2, FRAME, 6, DIM]),
            random(3 * i + 1, &[2, FRAME, 3, DIM]),
            random(3 * i + 2, &[2, FRAME, 3, 4]),
        );
        let mut outs = Vec::new();
        for cache in [&mut one, &mut many] {
            cache.stage(0, Pass::clean(i), &k, &v).unwrap();
            cache.commit(0, i, &q).unwrap();
            let mut out = HostTensor::zeros(&[2, FRAME, 6, 4], DType::F32).unwrap();
            cache.attend(0, &q, &mut out).unwrap();
            outs.push(out);
        }
        assert_eq!(outs[0], outs[1]);
    }
}

#[test]
fn a_refused_chunk_leaves_an_unbounded_cache_as_small_as_it_was() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), Recipe::full()).unwrap();
    advance(&mut cache, 0, 1);
    let (bytes, traffic) = (cache.bytes(), cache.engine().traffic());
    let c = chunk(1);
    let mut nan = c.k.clone();
    nan.as_f32_mut().unwrap()[0] = f32::NAN;
    assert!(cache.stage(0, Pass::denoise(1), &nan, &c.v).is_err());
    assert_eq!((cache.bytes(), cache.engine().traffic()), (bytes, traffic));
    assert_eq!(units(&cache), [0]);
}

#[test]
fn an_edit_that_does_not_fit_the_storage_type_is_refused() {
    // Spikes pulled to the spread of +-60000 would leave the range of an f16.
    let geometry = Geometry {
        dtype: DType::F16,
        tokens_per_unit: 16,
        rope: RopeKind::wan(4, 4),
        query_heads: 1,
        ..geometry(1, 1)
    };
    let recipe = small(1, 1, 1).with_overrides(&["edit.tau=1.0", "score.temperature=0.001"]).unwrap();
    let mut cache = KvCache::new(Host::new(), geometry, recipe).unwrap();
    let half = |shape: &[usize], f: &dyn Fn(usize) -> f32| {
        let data = (0..shape.iter().product()).map(|i| half::f16::from_f32(f(i))).collect();
        HostTensor::new(shape, tethercache::core::TensorData::F16(data)).unwrap()
    };
    let mut refused = false;
    for i in 0..6u64 {
        let early = i < 2;
        let v = half(&[16, 1, 4], &|e| match (early, e / 4 % 2 == 0, e / 4) {
            (true, true, _) => 60_000.0,
            (true, false, _) => -60_000.0,
            (false, _, 0) => 1.0,
            _ => 0.0,
        });
        // Later frames have the larger attention mass, so they are admitted.
        let k = half(&[16, 1, DIM], &|_| i as f32);
        let q = half(&[16, 1, DIM], &|_| 1.0);
        cache.stage(0, Pass::clean(i), &k, &v).unwrap();
        match cache.commit(0, i, &q) {
            Ok(_) => {
                let (_, stored) = cache.contiguous_unrotated(0, 0).unwrap();
                assert_eq!(stored.data().first_non_finite(), None);
            }
            Err(e) => {
                assert!(matches!(e, Error::Core(CoreError::NonFinite { what: "aligned v", .. })), "{e}");
                refused = true;
                break;
            }
        }
    }
    assert!(refused);
    let (_, stored) = cache.contiguous_unrotated(0, 0).unwrap();
    assert_eq!(stored.data().first_non_finite(), None);
}

#[test]
fn tables_for_paged_kernels_name_the_slots_in_logical_order() {
    let mut cache = KvCache::new(Host::new(), geometry(1, 1), small(1, 3, 2)).unwrap();
    advance(&mut cache, 0, 20);
    let view = cache.view(0).unwrap();
    let slots: Vec<u32> = cache.tables(0).unwrap().windows()[0].slots().iter().map(|s| s.0).collect();
    let csr = view.csr();
    assert_eq!((csr.indptr, csr.indices, csr.last_page_len), (vec![0, 6], slots, vec![FRAME as u32]));
    assert_eq!(view.tables()[0].positions, [0, 1, 2, 3, 4, 5]);
    assert_eq!(view.tables()[0].query_position, 5);
}

#[test]
fn the_published_sizes_follow_the_published_timeline() {
    let geometry = Geometry { units_per_chunk: 3, ..geometry(1, 1) };
    let mut cache = KvCache::new(Host::new(), geometry, Recipe::tethercache()).unwrap();
    let stage = |cache: &mut KvCache<Host>, i: u64| {
        let (q, k, v) = (
            random(i * 3, &[3 * FRAME, 2, DIM]),
            random(i * 3 + 1, &[3 * FRAME, 1, DIM]),
            random(i * 3 + 2, &[3 * FRAME, 1, 4]),
        );
        cache.stage(0, Pass::clean(i), &k, &v).unwrap();
        q
    };
    for i in 0..7 {
        let q = stage(&mut cache, i);
        assert!(cache.commit(0, i, &q).unwrap().plan.memory.is_empty());
    }
    let window = |cache: &KvCache<Host>| cache.tables(0).unwrap().windows()[0].clone();
    assert_eq!(
        window(&cache).memory_units().iter().map(|u| u.unwrap().0).collect::<Vec<_>>(),
        (3..17).collect::<Vec<_>>()
    );
    for (i, evicted, recent) in [(7, [17, 18, 19], [20, 21, 22, 23]), (8, [20, 21, 22], [23, 24, 25, 26])] {
        let q = stage(&mut cache, i);
        let pending: Vec<u64> = window(&cache).pending().iter().map(|m| m.unit.0).collect();
        assert_eq!(pending, evicted);
        assert_eq!(units(&cache)[17..], recent);
        let plan = cache.commit(0, i, &q).unwrap().plan;
        assert_eq!(
            (plan.memory[0].keep.len(), plan.memory[0].drop.len(), plan.memory[0].scores.len()),
            (14, 3, 17)
        );
    }
    assert_eq!(Recipe::tethercache().layout.recent, Extent::Units(4));
}
