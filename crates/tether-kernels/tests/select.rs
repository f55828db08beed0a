//! Selection at the sizes that decide how it is spread over a device, against a sort, on each runtime that was compiled in.

#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::cmp::Ordering;

use tether_core::{Engine, HostTensor, TokenEngine};
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;

#[path = "support/runtimes.rs"]
#[allow(dead_code, reason = "scores are f32 only")]
mod runtimes;

use runtimes::on_each_runtime;

/// Xorshift: the same numbers everywhere.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In `0..1`.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Roughly normal.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Kinds of rows, each hard in its own way.
#[derive(Clone, Copy, Debug)]
enum Row {
    Normal,
    /// Softmax-like: positive, over many magnitudes.
    Heavy,
    /// Differ in the low bits only: one bin has them all.
    Narrow,
    /// Ties everywhere.
    Few,
    Equal,
    Ascending,
    Descending,
    /// NaN of both signs, infinities, zeros of both signs, denormals.
    Odd,
}

const ROWS: [Row; 8] =
    [Row::Normal, Row::Heavy, Row::Narrow, Row::Few, Row::Equal, Row::Ascending, Row::Descending, Row::Odd];

fn row(kind: Row, columns: usize, noise: &mut Noise) -> Vec<f32> {
    let odd = [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(1),
        f32::from_bits(3),
        1.0,
        -1.0,
        f32::MAX,
        f32::MIN,
    ];
    (0..columns)
        .map(|i| match kind {
            Row::Normal => noise.normal(),
            Row::Heavy => (3.0 * noise.normal()).exp(),
            Row::Narrow => f32::from_bits(0x3f80_0000 + (noise.bits() % 0x8_0000) as u32),
            Row::Few => (noise.bits() % 3) as f32 - 1.0,
            Row::Equal => 0.5,
            Row::Ascending => i as f32 - columns as f32 / 2.0,
            Row::Descending => columns as f32 / 2.0 - i as f32,
            Row::Odd => odd[(noise.bits() % odd.len() as u64) as usize],
        })
        .collect()
}

/// By a sort: NaN lowest, zeros equal, ties to the lower column.
fn sorted_top_k(scores: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let descending = |a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).unwrap(),
        (a, b) => a.cmp(&b),
    };
    order.sort_by(|&a, &b| match descending(scores[a as usize], scores[b as usize]) {
        Ordering::Equal => a.cmp(&b),
        order => order,
    });
    order.truncate(k);
    order.sort_unstable();
    order
}

fn check_top_k<R: Runtime>(engine: &Cube<R>, kinds: &[Row], columns: usize, k: usize, noise: &mut Noise) {
    let scores: Vec<f32> = kinds.iter().flat_map(|&kind| row(kind, columns, noise)).collect();
    let tensor = HostTensor::from_f32(&[kinds.len(), columns], scores.clone()).unwrap();
    let chosen = engine.top_k(&engine.upload(&tensor).unwrap(), k).unwrap();
    assert_eq!(chosen.shape(), [kinds.len(), k]);
    let got = engine.read_indices(&chosen).unwrap();
    assert_eq!(got.len(), kinds.len() * k);
    for (r, kind) in kinds.iter().enumerate() {
        let expected = sorted_top_k(&scores[r * columns..][..columns], k);
        let got = &got[r * k..][..k];
        if let Some(at) = (0..k).find(|&i| got[i] != expected[i]) {
            panic!(
                "{kind:?} row {r} of {}, {columns} columns, k {k}: [{at}] is {} for {}",
                kinds.len(),
                got[at],
                expected[at]
            );
        }
    }
}

fn selects_what_a_sort_selects<R: Runtime>(engine: &Cube<R>) {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for (columns, ks) in [
        (1, vec![0, 1]),
        (7, vec![1, 3, 7]),
        (255, vec![1, 100, 255]),
        (2048, vec![200, 2047]),
        (4094, vec![64]),
        (8192, vec![500, 8192]),
        (8193, vec![1, 777, 8193]),
        (9000, vec![256]),
        (20_001, vec![300, 20_000]),
        (32_768, vec![400, 2048]),
        (131_072, vec![2048]),
    ] {
        for k in ks {
            check_top_k(engine, &ROWS, columns, k, &mut noise);
        }
    }
    // One row, and more rows than fit next to each other.
    check_top_k(engine, &[Row::Normal], 40_000, 1000, &mut noise);
    let many: Vec<Row> = ROWS.into_iter().cycle().take(64).collect();
    check_top_k(engine, &many, 16_384, 333, &mut noise);
    check_top_k(engine, &many, 100, 9, &mut noise);
}

fn selects_from_more_rows_than_a_grid_axis<R: Runtime>(engine: &Cube<R>) {
    let rows: Vec<Row> = [Row::Normal, Row::Few].into_iter().cycle().take(70_001).collect();
    check_top_k(engine, &rows, 5, 2, &mut Noise(77));
}

on_each_runtime! {
    fn selects_what_a_sort_selects(engine) {
        super::selects_what_a_sort_selects(&engine);
    }

    fn selects_from_more_rows_than_a_grid_axis(engine) {
        super::selects_from_more_rows_than_a_grid_axis(&engine);
    }
}
