//! Rows that leave join those that are most like them.

use cubecl::prelude::*;

/// Threads of a cube that merges.
pub(crate) const THREADS: u32 = 128;
/// A length that nothing is divided by less than.
const SHORTEST: f32 = 1e-12;

/// The row of `kept`, `[kept_rows, dim]`, with the highest cosine for each row of `leaving`, the first of equal ones,
/// that cosine, and how much the leaving row's value counts: `max(cosine, 0) |v| / (|v| + |v of the kept row| +
/// 1e-6)`, or nothing where the cosine is below `threshold`. A cube does `tile` leaving rows.
#[cube(launch_unchecked)]
pub(crate) fn most_similar<F: Float>(
    leaving: &Array<F>,
    kept: &Array<F>,
    leaving_lengths: &Array<f32>,
    kept_lengths: &Array<f32>,
    leaving_values: &Array<f32>,
    kept_values: &Array<f32>,
    places: &mut Array<u32>,
    cosines: &mut Array<f32>,
    weights: &mut Array<f32>,
    leaving_rows: u32,
    kept_rows: u32,
    threshold: f32,
    #[comptime] dim: u32,
    #[comptime] tile: u32,
) {
    // A column more than a row has, so that threads of neighbouring rows meet different banks.
    let stride = comptime!(dim + 1);
    let mut ours = SharedMemory::<f32>::new(comptime!((tile * stride) as usize));
    let mut theirs = SharedMemory::<f32>::new(comptime!((tile * stride) as usize));
    let mut found = SharedMemory::<f32>::new(comptime!((tile * tile) as usize));
    let mut at = SharedMemory::<u32>::new(comptime!((tile * tile) as usize));
    let threads = comptime!(tile * tile);
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * tile;
    let (row, lane) = (UNIT_POS_X / tile, UNIT_POS_X % tile);
    let mut i = UNIT_POS_X;
    while i < comptime!(tile * dim) {
        if first + i / dim < leaving_rows {
            ours[(i / dim * stride + i % dim) as usize] = f32::cast_from(leaving[(first * dim + i) as usize]);
        }
        i += threads;
    }
    let mut best = f32::new(-1e30);
    let mut place = 0u32;
    let mut begin = 0u32;
    while begin < kept_rows {
        let mut i = UNIT_POS_X;
        while i < comptime!(tile * dim) {
            if begin + i / dim < kept_rows {
                theirs[(i / dim * stride + i % dim) as usize] =
                    f32::cast_from(kept[(begin * dim + i) as usize]);
            }
            i += threads;
        }
        sync_cube();
        if first + row < leaving_rows && begin + lane < kept_rows {
            let mut dot = 0.0f32;
            for d in 0..dim {
                dot += ours[(row * stride + d) as usize] * theirs[(lane * stride + d) as usize];
            }
            let likeness = dot / kept_lengths[(begin + lane) as usize].max(f32::new(SHORTEST));
            if likeness > best {
                best = likeness;
                place = begin + lane;
            }
        }
        sync_cube();
        begin += tile;
    }
    found[UNIT_POS_X as usize] = best;
    at[UNIT_POS_X as usize] = place;
    sync_cube();
    if lane == 0 && first + row < leaving_rows {
        for i in 1..tile {
            let other = found[(row * tile + i) as usize];
            let of_other = at[(row * tile + i) as usize];
            if other > best || (other == best && of_other < place) {
                best = other;
                place = of_other;
            }
        }
        let number = (first + row) as usize;
        let cosine = best / leaving_lengths[number].max(f32::new(SHORTEST));
        let own = leaving_values[number];
        let mut weight = cosine.max(0.0f32) * own / (own + kept_values[place as usize] + f32::new(1e-6));
        if cosine < threshold {
            weight = 0.0f32;
        }
        places[number] = place;
        cosines[number] = cosine;
        weights[number] = weight;
    }
}

/// Rows of `kept`, `[rows, dim]`, each with those of `leaving` whose place it is, by their weights: `(x + sum of w
/// x_e) / (1 + sum of w)`. A cube does a row.
#[cube(launch_unchecked)]
pub(crate) fn join_rows<F: Float>(
    kept: &Array<F>,
    leaving: &Array<F>,
    places: &Array<u32>,
    weights: &Array<f32>,
    out: &mut Array<F>,
    rows: u32,
    leaving_rows: u32,
    dim: u32,
) {
    let mut here = SharedMemory::<u32>::new(comptime!(THREADS as usize));
    let mut counts = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let mut any = SharedMemory::<u32>::new(1usize);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let blocks = dim.div_ceil(THREADS);
    for block in 0..blocks {
        let channel = block * THREADS + UNIT_POS_X;
        let mut sum = 0.0f32;
        if row < rows && channel < dim {
            sum = f32::cast_from(kept[(row * dim + channel) as usize]);
        }
        let mut total = 1.0f32;
        let mut begin = 0u32;
        while begin < leaving_rows {
            if UNIT_POS_X == 0 {
                any[0] = 0u32;
            }
            sync_cube();
            let number = begin + UNIT_POS_X;
            let mut weight = 0.0f32;
            if number < leaving_rows && places[number as usize] == row {
                weight = weights[number as usize];
            }
            counts[UNIT_POS_X as usize] = weight;
            here[UNIT_POS_X as usize] = number;
            if weight > 0.0f32 {
                any[0] = 1u32;
            }
            sync_cube();
            // Hardly any part of the list has something for this row.
            if any[0] == 1u32 && row < rows && channel < dim {
                for i in 0..THREADS {
                    let weight = counts[i as usize];
                    if weight > 0.0f32 {
                        let from = here[i as usize] * dim + channel;
                        sum += weight * f32::cast_from(leaving[from as usize]);
                        total += weight;
                    }
                }
            }
            sync_cube();
            begin += THREADS;
        }
        if row < rows && channel < dim {
            out[(row * dim + channel) as usize] = F::cast_from(sum / total);
        }
    }
}
