//! One chunk of the tiny video model, 5 steps and the clean pass, with 21 frames in the cache, in one thread.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use tether_host::Host;
use tether_models::{Scene, Schedule, TinyVideo, VideoSession, chunk_noise};
use tethercache::Recipe;

fn chunk(c: &mut Criterion) {
    let model = TinyVideo::bundled().expect("the bundled weights should load");
    let scene = Scene::sample(7, 0);
    let sizes = ["layout.sink=3", "layout.memory=9", "layout.recent=9"];
    let recipe = Recipe::tethercache().with_overrides(&sizes).expect("the sizes should be valid");
    let mut session = VideoSession::new(&model, recipe, Schedule::default(), Host::new())
        .expect("the model should fit the recipe");
    for chunk in 0..8u16 {
        let frames: Vec<_> = (0..3u16).map(|i| scene.render(f32::from(chunk * 3 + i))).collect();
        session.give(&frames).expect("real frames should be accepted");
    }
    let mut noise = vec![0.0; model.config().chunk_values()];
    let mut index = 8;
    let before = session.timing();
    let mut group = c.benchmark_group("tinyvideo");
    group.sample_size(20);
    group.bench_function("one chunk, tethercache, 21 frames", |b| {
        b.iter(|| {
            chunk_noise(7, 0, index, &mut noise);
            index += 1;
            session.generate(&noise).expect("a chunk should be generated")
        });
    });
    group.finish();
    let after = session.timing();
    let chunks = f64::from(after.chunks - before.chunks);
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3 / chunks;
    println!(
        "per chunk: model {:.1} ms, attention {:.1} ms, cache management {:.2} ms",
        ms(after.model - before.model),
        ms(after.attention - before.attention),
        ms(after.cache - before.cache),
    );
}

criterion_group!(benches, chunk);
criterion_main!(benches);
