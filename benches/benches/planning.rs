//! What a policy costs on the host: regions, scores to plan, tables, per layer and chunk at 21 frames.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tether_core::{ChunkIndex, LayerId};
use tethercache::{LayerTables, Planner, Recipe};

/// Tables in the steady state of the published sizes.
fn steady(planner: &Planner) -> LayerTables {
    let mut tables = planner.tables(1);
    for chunk in 0..20 {
        step(planner, &mut tables, chunk);
    }
    tables
}

fn step(planner: &Planner, tables: &mut LayerTables, chunk: u64) -> usize {
    planner.begin_chunk(tables).expect("a bounded window should always have room");
    let candidates = planner.candidates(tables);
    // Not all alike, so that ranking has something to do.
    let logits: Vec<f32> = (0..17).map(|i| ((i * 7 + chunk) % 17) as f32 * 0.01).collect();
    let plan = planner
        .plan(tables, LayerId(0), ChunkIndex(chunk), &candidates, &logits)
        .expect("finite logits should be ranked");
    plan.memory.first().map_or(0, |m| m.keep.len())
}

fn planning(c: &mut Criterion) {
    let planner = Planner::new(Recipe::tethercache(), 3).expect("the built-in recipe should be valid");
    let tables = steady(&planner);
    assert_eq!(step(&planner, &mut tables.clone(), 20), 14);
    c.bench_function("plan one layer and chunk, 21 frames", |b| {
        // The clone is part of it: a session plans on a copy, so that a refused chunk leaves its tables alone.
        b.iter_batched_ref(
            || &tables,
            |tables| step(&planner, &mut tables.clone(), 20),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, planning);
criterion_main!(benches);
