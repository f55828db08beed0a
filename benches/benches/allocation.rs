//! The allocation of a whole model's tokens to tiers.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tether_score::tokens::{RateGroup, allocate};

/// Costs of dropping and of 1, 2, 3, 4 and 6 bits for keys and values of 64 channels, in bytes.
const COSTS: [u32; 6] = [0, 20, 36, 52, 68, 100];
const ERRORS: [f32; 6] = [1.0, 0.363_38, 0.117_482, 0.034_548, 0.009_501, 0.000_644];

/// 30 layers of 3 heads of 8192 tokens, importance spread over many orders of magnitude.
fn distortions() -> Vec<Vec<f32>> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let token = |_| {
        let (key, value, at_all) = (uniform(), uniform(), uniform());
        let size = (-12.0 * key).exp();
        ERRORS.map(|e| {
            size * if e == 1.0 { 0.2 + 2.0 * at_all } else { (40.0 * at_all * e).min(1.0) + e * value }
        })
    };
    let mut token = token;
    (0..90).map(|_| (0..8192).flat_map(&mut token).collect()).collect()
}

fn allocation(c: &mut Criterion) {
    let distortions = distortions();
    let groups: Vec<RateGroup<'_>> = distortions
        .iter()
        .map(|d| RateGroup { costs: &COSTS, distortion: d, fixed: (4, 32), refresh: None })
        .collect();
    // 2.25 bits a channel.
    let budget = 90 * 8192 * 36;
    c.bench_function("allocate 30 layers x 3 heads x 8192 tokens", |b| {
        b.iter(|| allocate(black_box(&groups), budget).map(|a| a.cost));
    });
}

criterion_group!(benches, allocation);
criterion_main!(benches);
