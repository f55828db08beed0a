//! Rotary embeddings on the way out of a store, and of queries.

use cubecl::prelude::*;

use super::copy::cube_unit;
use super::words::Words;

/// Cosine and sine of a pair: unit pairs turn with the position, token pairs with the token's place in its unit.
#[cube]
#[allow(unused_assignments, reason = "a kernel's variables need a first value")]
pub(crate) fn phase(
    unit: &Array<f32>,
    token: &Array<f32>,
    position: u32,
    place: u32,
    pair: u32,
    unit_pairs: u32,
    token_pairs: u32,
) -> (f32, f32) {
    let mut cos = 1.0f32;
    let mut sin = 0.0f32;
    if pair < unit_pairs {
        let at = ((position * unit_pairs + pair) * 2) as usize;
        cos = unit[at];
        sin = unit[at + 1];
    } else {
        let at = ((place * token_pairs + pair - unit_pairs) * 2) as usize;
        cos = token[at];
        sin = token[at + 1];
    }
    (cos, sin)
}

/// Copies units out of a store with their keys rotated to positions: `table` holds slot and position of each unit. One vector a thread, or two
/// where the channels of a pair lie half a head apart; then a vector does not straddle the halves.
#[cube(launch_unchecked)]
pub(crate) fn gather_rotated<F: Float, N: Size>(
    store: &Array<Vector<F, N>>,
    table: &Words,
    unit_phases: &Array<f32>,
    token_phases: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    units: u32,
    tokens: u32,
    heads: u32,
    unit_pairs: u32,
    token_pairs: u32,
    #[comptime] half: bool,
) {
    let size = N::value();
    let size = comptime!(size as u32);
    let head = 2 * (unit_pairs + token_pairs) / size;
    // Threads that share a head.
    let threads = if comptime!(half) { head / 2 } else { head };
    let unit = cube_unit();
    let index = CUBE_POS_X * CUBE_DIM + UNIT_POS;
    if unit < units && index < tokens * heads * threads {
        let token = index / (heads * threads);
        let within = index % threads;
        let at = index / threads * head + within;
        let slot = table.get(2 * unit);
        let position = table.get(2 * unit + 1);
        let from = slot * tokens * heads * head + at;
        let to = unit * tokens * heads * head + at;
        if comptime!(half) {
            let a = Vector::<f32, N>::cast_from(store[from as usize]);
            let b = Vector::<f32, N>::cast_from(store[(from + threads) as usize]);
            let mut first = Vector::<f32, N>::new(0.0f32);
            let mut second = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for i in 0..size {
                let pair = within * size + i;
                let (cos, sin) =
                    phase(unit_phases, token_phases, position, token, pair, unit_pairs, token_pairs);
                first[i as usize] = a[i as usize] * cos - b[i as usize] * sin;
                second[i as usize] = a[i as usize] * sin + b[i as usize] * cos;
            }
            out[to as usize] = Vector::cast_from(first);
            out[(to + threads) as usize] = Vector::cast_from(second);
        } else {
            let x = Vector::<f32, N>::cast_from(store[from as usize]);
            let mut turned = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for i in 0..comptime!(size / 2) {
                let pair = within * comptime!(size / 2) + i;
                let (cos, sin) =
                    phase(unit_phases, token_phases, position, token, pair, unit_pairs, token_pairs);
                let (first, second) = (comptime!(2 * i as usize), comptime!(2 * i as usize + 1));
                turned[first] = x[first] * cos - x[second] * sin;
                turned[second] = x[first] * sin + x[second] * cos;
            }
            out[to as usize] = Vector::cast_from(turned);
        }
    }
}

/// Queries `[sequences, tokens, heads, dim]` as `f32`, scaled, and rotated where `rotated`: token `t` of a sequence stands at unit
/// position `start[sequence] + t / unit_tokens`. One thread a pair of channels.
#[cube(launch)]
pub(crate) fn prepare_queries<F: Float>(
    q: &Array<F>,
    start: &Array<u32>,
    unit_phases: &Array<f32>,
    token_phases: &Array<f32>,
    out: &mut Array<f32>,
    tokens: u32,
    unit_tokens: u32,
    heads: u32,
    unit_pairs: u32,
    token_pairs: u32,
    scale: f32,
    #[comptime] rotated: bool,
    #[comptime] half: bool,
) {
    if comptime![rotated] {
        let pairs = unit_pairs + token_pairs;
        if ABSOLUTE_POS < out.len() / 2 {
            let index = ABSOLUTE_POS as u32;
            let pair = index % pairs;
            let row = index / pairs;
            let token = row / heads % tokens;
            let sequence = row / (heads * tokens);
            let base = row * 2 * pairs;
            let first = if half { pair } else { 2 * pair };
            let second = if half { pair + pairs } else { 2 * pair + 1 };
            let a = f32::cast_from(q[(base + first) as usize]) * scale;
            let b = f32::cast_from(q[(base + second) as usize]) * scale;
            let position = start[sequence as usize] + token / unit_tokens;
            let place = token % unit_tokens;
            let (cos, sin) = phase(unit_phases, token_phases, position, place, pair, unit_pairs, token_pairs);
            out[(base + first) as usize] = a * cos - b * sin;
            out[(base + second) as usize] = a * sin + b * cos;
        }
    } else if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = f32::cast_from(q[ABSOLUTE_POS]) * scale;
    }
}
