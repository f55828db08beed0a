//! Cost of a forward pass without its attention, and of scoring a video.

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tether_core::HostTensor;
use tether_models::{ChunkAttention, Frame, Scene, TinyVideo, chunk_noise, frame_metrics};

struct NoAttention;

impl ChunkAttention for NoAttention {
    type Error = Infallible;

    fn attend(
        &mut self,
        _: usize,
        _: &HostTensor,
        _: &HostTensor,
        _: &HostTensor,
        _: &mut HostTensor,
    ) -> Result<(), Infallible> {
        Ok(())
    }
}

fn forward(c: &mut Criterion) {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let mut ws = model.workspace();
    let mut x = vec![0.0; model.config().chunk_values()];
    chunk_noise(0, 0, 0, &mut x);
    let mut out = vec![0.0; x.len()];
    c.bench_function("tinyvideo/forward_without_attention", |b| {
        b.iter(|| model.forward(&mut ws, black_box(&x), 0.7, &mut NoAttention, &mut out));
    });
}

fn metrics(c: &mut Criterion) {
    let scene = Scene::sample(0, 0);
    let frames: Vec<Frame> = (0..240).map(|t| scene.render(t as f32 + 0.5)).collect();
    c.bench_function("metrics/240_frames", |b| b.iter(|| frame_metrics(&scene, black_box(&frames))));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = forward, metrics
}
criterion_main!(benches);
