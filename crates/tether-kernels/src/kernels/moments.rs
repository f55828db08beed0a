//! Mean and sum of squared deviations per unit and channel.

use cubecl::prelude::*;

use super::column::load_batch;
use super::copy::cube_unit;
use super::words::Words;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 256;
/// Tokens that a thread reads before it looks at the first of them.
const AT_ONCE: u32 = 5;

/// Writes keys and values of unit `u` to slot `rows[u] / 2`, and their moments to row `rows[u]` of `moments`, in one pass over the data. A row
/// is mean and sum of squared deviations of the keys' channels, then of the values'.
///
/// A cube does all tokens of `columns` vectors side by side, so that moments need no second kernel. Tokens have `width_k` and `width_v`
/// vectors; the first `blocks_k` cubes of x do keys, the others values.
#[cube(launch_unchecked)]
#[allow(unused_assignments, reason = "a kernel's variables need a first value")]
pub(crate) fn write_with_moments<F: Float, N: Size>(
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    keys: &mut Array<Vector<F, N>>,
    values: &mut Array<Vector<F, N>>,
    moments: &mut Array<f32>,
    rows: &Words,
    units: u32,
    tokens: u32,
    width_k: u32,
    width_v: u32,
    blocks_k: u32,
    #[comptime] columns: u32,
) {
    let lanes = comptime!(THREADS / columns);
    let size = N::value();
    // One place a thread and element of a vector; the padding keeps the threads that merge off each other's banks.
    let stride = comptime!(THREADS + columns);
    let mut means = SharedMemory::<f32>::new(comptime!(size * stride as usize));
    let mut squares = SharedMemory::<f32>::new(comptime!(size * stride as usize));
    let mut origins = SharedMemory::<f32>::new(comptime!(size * columns as usize));

    let unit = cube_unit();
    let inside = unit < units;
    let row = rows.get(select(inside, unit, 0));
    let slot = row / 2;
    let of_keys = CUBE_POS_X < blocks_k;
    let block = select(of_keys, CUBE_POS_X, CUBE_POS_X - blocks_k);
    let width = select(of_keys, width_k, width_v);
    let column = block * columns + UNIT_POS % columns;
    let lane = UNIT_POS / columns;
    // No tokens for threads that are beyond the edge.
    let end = select(inside && column < width, tokens, 0);
    let source = unit * tokens * width + column;
    let target = slot * tokens * width + column;

    let mut origin = Vector::<f32, N>::new(0.0f32);
    let mut mean = Vector::<f32, N>::new(0.0f32);
    let mut square = Vector::<f32, N>::new(0.0f32);
    if of_keys {
        let (o, m, s) = copy_column(k, keys, source, target, width, end, lane, lanes);
        origin = o;
        mean = m;
        square = s;
    } else {
        let (o, m, s) = copy_column(v, values, source, target, width, end, lane, lanes);
        origin = o;
        mean = m;
        square = s;
    }
    #[unroll]
    for i in 0..size {
        let place = comptime!(i as u32 * stride) + UNIT_POS;
        means[place as usize] = mean[i];
        squares[place as usize] = square[i];
        if lane == 0 {
            origins[(comptime!(i as u32 * columns) + UNIT_POS) as usize] = origin[i];
        }
    }
    sync_cube();

    // Several threads a channel merge lanes, then one merges them.
    let channels = comptime!(columns * size as u32);
    let groups = comptime!(if THREADS / channels < lanes { THREADS / channels } else { lanes });
    let element = UNIT_POS / comptime!(columns * groups);
    let group = UNIT_POS / columns % groups;
    if element < comptime!(size as u32) {
        let first = element * stride + UNIT_POS % comptime!(columns * groups);
        merge(&mut means, &mut squares, first, comptime!(columns * groups), tokens, group, groups, lanes);
    }
    sync_cube();
    let element = UNIT_POS / columns;
    if element < comptime!(size as u32) {
        let first = element * stride + UNIT_POS % columns;
        merge(&mut means, &mut squares, first, columns, tokens, 0u32, 1u32, groups);
        if inside && column < width {
            let channel = column * comptime!(size as u32) + element;
            let base = row * comptime!(2 * size as u32) * (width_k + width_v)
                + select(of_keys, 0, comptime!(2 * size as u32) * width_k);
            moments[(base + channel) as usize] = origins[UNIT_POS as usize] + means[first as usize];
            moments[(base + width * comptime!(size as u32) + channel) as usize] = squares[first as usize];
        }
    }
}

/// Copies the tokens `lane`, `lane + lanes`, .. below `end` of a column, and returns the column's first token, and the mean distance from it and
/// the sum of squared deviations of those that were copied.
///
/// All distances are from one token and not from 0, so that a channel with a large mean and a small spread keeps its spread, and a constant
/// one has exactly none.
#[cube]
fn copy_column<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    to: &mut Array<Vector<F, N>>,
    source: u32,
    target: u32,
    width: u32,
    end: u32,
    lane: u32,
    #[comptime] lanes: u32,
) -> (Vector<f32, N>, Vector<f32, N>, Vector<f32, N>) {
    let mut origin = Vector::<f32, N>::new(0.0f32);
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut square = Vector::<f32, N>::new(0.0f32);
    let mut held = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    let step = lanes * width;
    let mut token = lane;
    let mut at = lane * width;
    if token < end {
        origin = Vector::cast_from(from[source as usize]);
    }
    while token < end {
        load_batch(from, &mut held, source + at, step, token, lanes, end, AT_ONCE);
        #[unroll]
        for i in 0..AT_ONCE {
            if token + i * lanes < end {
                to[(target + at + i * step) as usize] = held[i as usize];
                let d = Vector::<f32, N>::cast_from(held[i as usize]) - origin;
                sum += d;
                square += d * d;
            }
        }
        token += comptime!(AT_ONCE * lanes);
        at += AT_ONCE * step;
    }
    let share = Vector::<f32, N>::new(1.0 / f32::cast_from(tokens_of(end, lane, lanes)).max(1.0));
    let offset = sum * share;
    let spread = (square - sum * offset).max(Vector::new(0.0f32));
    (origin, offset, spread)
}

/// Tokens below `tokens` that are `place` modulo `lanes`.
#[cube]
fn tokens_of(tokens: u32, place: u32, #[comptime] lanes: u32) -> u32 {
    (tokens + comptime!(lanes - 1) - place) / lanes
}

/// Merges the moments at `first`, `first + step`, .. into those at `first` (Chan's rule). Entry `i` of `entries` summarises the tokens that
/// are `place + i * places` modulo `entries * places`.
#[cube]
fn merge(
    means: &mut SharedMemory<f32>,
    squares: &mut SharedMemory<f32>,
    first: u32,
    #[comptime] step: u32,
    tokens: u32,
    place: u32,
    #[comptime] places: u32,
    #[comptime] lanes: u32,
) {
    let entries = comptime!(lanes / places);
    let base = means[first as usize];
    let mut offset = 0.0f32;
    #[unroll]
    for i in 1..entries {
        let count = f32::cast_from(tokens_of(tokens, place + i * places, lanes));
        offset += count * (means[(first + i * step) as usize] - base);
    }
    let mean = base + offset / f32::cast_from(tokens_of(tokens, place, places)).max(1.0);
    let mut square = 0.0f32;
    #[unroll]
    for i in 0..entries {
        let count = f32::cast_from(tokens_of(tokens, place + i * places, lanes));
        let d = means[(first + i * step) as usize] - mean;
        square += squares[(first + i * step) as usize] + count * d * d;
    }
    means[first as usize] = mean;
    squares[first as usize] = square;
}

/// The side of the moments that starts at `side` of rows of `row_len`, `[rows, len]`.
#[cube(launch_unchecked)]
pub(crate) fn gather_moments(
    moments: &Array<f32>,
    out: &mut Array<f32>,
    rows: &Words,
    units: u32,
    row_len: u32,
    side: u32,
    len: u32,
) {
    let unit = cube_unit();
    let at = CUBE_POS_X * CUBE_DIM + UNIT_POS;
    if unit < units && at < len {
        let row = rows.get(unit);
        out[(unit * len + at) as usize] = moments[(row * row_len + side + at) as usize];
    }
}
