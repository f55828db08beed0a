//! Whole rollouts under four recipes, beside those of the PyTorch model and its own cache code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_core::Engine;
use tether_host::Host;
use tether_models::{CachedPass, ChunkAttention, Frame, Schedule, TinyVideo, VideoSession};
use tether_testing::Golden;
use tethercache::Recipe;

const FRAME: usize = 3 * 32 * 32;

struct Rollout {
    frames: Vec<f32>,
    /// Memory indices after each chunk, `[chunks][layers][3]`.
    memory: Vec<Vec<Vec<i64>>>,
}

fn rollout<E: Engine>(engine: E, golden: &Golden, recipe: Recipe) -> Rollout
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    let model = TinyVideo::bundled().unwrap();
    let mut session = VideoSession::new(&model, recipe, Schedule::default(), engine).unwrap();
    let given = golden.f32("gt");
    let noise = golden.f32("noise");
    let mut rollout = Rollout { frames: given.clone(), memory: Vec::new() };
    for chunk in 0..10 {
        if chunk < 3 {
            let frames: Vec<Frame> = given[chunk * 3 * FRAME..(chunk + 1) * 3 * FRAME]
                .chunks(FRAME)
                .map(|f| Frame::new(f.to_vec()).unwrap())
                .collect();
            session.give(&frames).unwrap();
        } else {
            let frames = session.generate(&noise[chunk * 192 * 48..(chunk + 1) * 192 * 48]).unwrap();
            rollout.frames.extend(frames.iter().flat_map(|f| f.values()));
        }
        let layers = (0..8).map(|layer| {
            let window = &session.cache().tables(layer).unwrap().windows()[0];
            window.memory_units().iter().map(|u| u.map_or(-1, |u| i64::try_from(u.0).unwrap())).collect()
        });
        rollout.memory.push(layers.collect());
    }
    rollout
}

/// Largest difference to the golden frames, by frame.
fn differences(golden: &Golden, name: &str, rollout: &Rollout) -> Vec<f32> {
    let expected = golden.f32(&format!("{name}.frames"));
    assert_eq!(rollout.frames.len(), expected.len());
    let frame = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    rollout.frames.chunks(FRAME).zip(expected.chunks(FRAME)).map(frame).collect()
}

fn assert_same_video(name: &str, differences: &[f32]) {
    // Single precision in another order: half a step of an 8-bit pixel after seven generated chunks.
    let worst = differences.iter().copied().fold(0.0, f32::max);
    assert!(worst < 4e-3, "{name}: frames differ by {differences:?}");
}

fn sliding_windows<E: Engine>(engine: impl Fn() -> E)
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    let golden = Golden::load("tinyvideo/golden_rollout.safetensors");
    let fifo = Recipe::fifo().with_overrides(&["layout.recent=12"]).unwrap();
    assert_same_video("fifo12", &differences(&golden, "fifo12", &rollout(engine(), &golden, fifo)));
    let sink = Recipe::sink_recent().with_overrides(&["layout.sink=3", "layout.recent=9"]).unwrap();
    assert_same_video("sink12", &differences(&golden, "sink12", &rollout(engine(), &golden, sink)));
}

fn recall_and_alignment<E: Engine>(engine: impl Fn() -> E)
where
    for<'c> CachedPass<'c, E>: ChunkAttention<Error = tethercache::Error>,
{
    let golden = Golden::load("tinyvideo/golden_rollout.safetensors");
    let sizes = ["layout.sink=3", "layout.memory=3", "layout.recent=6"];
    for (name, tau) in [("tether12", "edit.tau=0.35"), ("grab12", "edit.tau=0.0")] {
        let recipe = Recipe::tethercache().with_overrides(&sizes).unwrap().with_overrides(&[tau]).unwrap();
        let rollout = rollout(engine(), &golden, recipe);
        let memory: Vec<i64> = rollout.memory.iter().flatten().flatten().copied().collect();
        assert_eq!(memory, golden.integers(&format!("{name}.mem_index")), "{name}: memory indices");
        assert_same_video(name, &differences(&golden, name, &rollout));
    }
}

#[test]
fn sliding_windows_make_the_golden_videos() {
    sliding_windows(Host::new);
}

#[test]
fn recall_and_alignment_make_the_golden_videos_with_the_same_memory() {
    recall_and_alignment(Host::new);
}

/// The same videos with the cache on a GPU; a device that is not there is skipped, and says why.
#[cfg(feature = "cuda")]
#[test]
fn cuda_makes_the_golden_videos_with_the_same_memory() {
    if tether_testing::or_skip("cuda", tethercache::kernels::cuda()).is_some() {
        sliding_windows(|| tethercache::kernels::cuda().unwrap());
        recall_and_alignment(|| tethercache::kernels::cuda().unwrap());
    }
}
