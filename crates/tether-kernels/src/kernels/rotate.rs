//! Rotary embeddings on the way out of a store, and of queries.

use cubecl::prelude::*;

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

/// Copies units out of a store with their keys rotated to `positions`. One thread a pair of channels.
#[cube(launch)]
pub(crate) fn gather_rotated<F: Float>(
    store: &Array<F>,
    slots: &Array<u32>,
    positions: &Array<u32>,
    unit_phases: &Array<f32>,
    token_phases: &Array<f32>,
    out: &mut Array<F>,
    tokens: u32,
    heads: u32,
    unit_pairs: u32,
    token_pairs: u32,
    #[comptime] half: bool,
) {
    let pairs = unit_pairs + token_pairs;
    if ABSOLUTE_POS < out.len() / 2 {
        let index = ABSOLUTE_POS as u32;
        let pair = index % pairs;
        let head = index / pairs % heads;
        let token = index / (pairs * heads) % tokens;
        let unit = index / (pairs * heads * tokens);
        let dim = 2 * pairs;
        let within = (token * heads + head) * dim;
        let from = slots[unit as usize] * tokens * heads * dim + within;
        let to = unit * tokens * heads * dim + within;
        let first = if half { pair } else { 2 * pair };
        let second = if half { pair + pairs } else { 2 * pair + 1 };
        let a = f32::cast_from(store[(from + first) as usize]);
        let b = f32::cast_from(store[(from + second) as usize]);
        let position = positions[unit as usize];
        let (cos, sin) = phase(unit_phases, token_phases, position, token, pair, unit_pairs, token_pairs);
        out[(to + first) as usize] = F::cast_from(a * cos - b * sin);
        out[(to + second) as usize] = F::cast_from(a * sin + b * cos);
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
