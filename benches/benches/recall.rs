//! Gated recall's logits for 17 frames, factorised beside literal, at the shapes of the tiny video model.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use tether_benches::random;
use tether_core::Moments;
use tether_score::{mean_logits, mean_query};
use tether_testing::literal_mean_logits;

const FRAMES: usize = 17;
const FRAME_TOKENS: usize = 64;
const HEADS: usize = 3;
const DIM: usize = 64;
const QUERIES: usize = 192;

fn recall(c: &mut Criterion) {
    let q = random(QUERIES * HEADS * DIM, 1);
    let frames: Vec<Vec<f32>> =
        (0..FRAMES).map(|i| random(FRAME_TOKENS * HEADS * DIM, i as u64 + 2)).collect();
    let views: Vec<&[f32]> = frames.iter().map(Vec::as_slice).collect();
    let moments: Vec<Moments> = frames.iter().map(|f| Moments::of_tokens(f, HEADS * DIM)).collect();
    let factorised = |moments: &[Moments]| {
        let query = mean_query(&q, HEADS, HEADS, DIM).expect("the shapes should fit");
        mean_logits(&query, HEADS, DIM, moments.iter().map(|m| m.mean.as_slice()))
            .expect("the shapes should fit")
    };
    let literal = || literal_mean_logits(&q, &views, HEADS, HEADS, DIM);
    for (f, l) in factorised(&moments).iter().zip(literal()) {
        assert!((f64::from(*f) - l).abs() < 1e-6, "{f} for {l}");
    }
    let mut group = c.benchmark_group("mean logits of 17 frames");
    group.bench_function("factorised, means stored", |b| b.iter(|| factorised(&moments)));
    group.bench_function("factorised, means taken first", |b| {
        b.iter(|| {
            let moments: Vec<Moments> = frames.iter().map(|f| Moments::of_tokens(f, HEADS * DIM)).collect();
            factorised(&moments)
        });
    });
    group.sample_size(10).bench_function("literal (f64 oracle)", |b| b.iter(literal));
    group.finish();
}

criterion_group!(benches, recall);
criterion_main!(benches);
