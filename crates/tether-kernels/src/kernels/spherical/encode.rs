//! Numbers to spherical codes.

use cubecl::prelude::*;

use super::rotation::{exchanged, transform};
use super::{CHANNELS, THREADS, level_offset};
use crate::kernels::runs::sum_of_run;

/// Number of midpoints times `unit` that are less than `magnitude`, of levels of one sign: node 1 halves them, nodes 2 and 3 the halves, and so on. The
/// first depths come from registers, already multiplied.
#[cube]
fn search(
    magnitude: f32,
    unit: f32,
    nearest: &Array<f32>,
    midpoints: &SharedMemory<f32>,
    #[comptime] bits: u32,
) -> u32 {
    let depths = comptime!((bits - 1).min(3));
    let mut index = 0u32;
    if comptime!(depths >= 1) {
        let upper = magnitude > nearest[1];
        index = select(upper, comptime!(1u32 << (depths - 1)).runtime(), 0u32);
        if comptime!(depths >= 2) {
            let second = magnitude > select(upper, nearest[3], nearest[2]);
            index += select(second, comptime!(1u32 << (depths - 2)).runtime(), 0u32);
            if comptime!(depths >= 3) {
                let low = select(second, nearest[5], nearest[4]);
                let high = select(second, nearest[7], nearest[6]);
                index += select(magnitude > select(upper, high, low), 1u32, 0u32);
            }
        }
    }
    #[unroll]
    for depth in depths..comptime!(bits - 1) {
        let node = index + comptime!(1u32 << depth);
        let right = magnitude > midpoints[node as usize] * unit;
        index = 2 * index + select(right, 1u32, 0u32);
    }
    index
}

/// Codes tokens of `x`, each `heads` rows of `dim` channels. `lanes` threads (a power of two) share a row; a cube has rows of one head, whose mean its threads share. Row
/// `i` goes to row `i` of the codes, or with `scatter` to row `places[i]`.
///
/// `channels` holds a sign for each channel, then a scale; `levels` those of all bits.
#[cube(launch_unchecked)]
pub(crate) fn encode_spherical<F: Float, S: Float, N: Size, M: Size, W: Size>(
    x: &Array<Vector<F, N>>,
    means: &Array<Vector<f32, M>>,
    channels: &Array<Vector<f32, M>>,
    levels: &Array<f32>,
    places: &Array<u32>,
    codes: &mut Array<Vector<u32, W>>,
    radii: &mut Array<S>,
    tokens: u32,
    heads: u32,
    #[comptime] dim: u32,
    #[comptime] bits: u32,
    #[comptime] lanes: u32,
    #[comptime] unbiased: bool,
    #[comptime] scatter: bool,
    #[comptime] plane: u32,
) {
    encode_rows::<F, S, N, M, W>(
        x, means, channels, levels, places, codes, radii, tokens, heads, dim, bits, lanes, unbiased, scatter,
        plane,
    );
}

/// [`encode_spherical`] of keys and of values of the same tokens to the same places, in cubes of their own: those of `CUBE_POS_Z` 0 have keys.
#[cube(launch_unchecked)]
pub(crate) fn encode_spherical_pair<F: Float, S: Float, N: Size, M: Size, WK: Size, WV: Size>(
    k: &Array<Vector<F, N>>,
    v: &Array<Vector<F, N>>,
    k_means: &Array<Vector<f32, M>>,
    v_means: &Array<Vector<f32, M>>,
    k_channels: &Array<Vector<f32, M>>,
    v_channels: &Array<Vector<f32, M>>,
    levels: &Array<f32>,
    places: &Array<u32>,
    k_codes: &mut Array<Vector<u32, WK>>,
    v_codes: &mut Array<Vector<u32, WV>>,
    k_radii: &mut Array<S>,
    v_radii: &mut Array<S>,
    tokens: u32,
    heads: u32,
    #[comptime] dim: u32,
    #[comptime] k_bits: u32,
    #[comptime] v_bits: u32,
    #[comptime] lanes: u32,
    #[comptime] k_unbiased: bool,
    #[comptime] v_unbiased: bool,
    #[comptime] plane: u32,
) {
    if CUBE_POS_Z == 0 {
        encode_rows::<F, S, N, M, WK>(
            k, k_means, k_channels, levels, places, k_codes, k_radii, tokens, heads, dim, k_bits, lanes,
            k_unbiased, true, plane,
        );
    } else {
        encode_rows::<F, S, N, M, WV>(
            v, v_means, v_channels, levels, places, v_codes, v_radii, tokens, heads, dim, v_bits, lanes,
            v_unbiased, true, plane,
        );
    }
}

#[cube]
fn encode_rows<F: Float, S: Float, N: Size, M: Size, W: Size>(
    x: &Array<Vector<F, N>>,
    means: &Array<Vector<f32, M>>,
    channels: &Array<Vector<f32, M>>,
    levels: &Array<f32>,
    places: &Array<u32>,
    codes: &mut Array<Vector<u32, W>>,
    radii: &mut Array<S>,
    tokens: u32,
    heads: u32,
    #[comptime] dim: u32,
    #[comptime] bits: u32,
    #[comptime] lanes: u32,
    #[comptime] unbiased: bool,
    #[comptime] scatter: bool,
    #[comptime] plane: u32,
) {
    let vector = N::value();
    let whole = comptime!(dim == lanes * CHANNELS);
    let uniform = comptime!(dim.is_power_of_two());
    // Levels of one sign.
    let magnitudes = comptime!(1u32 << (bits - 1));
    let mut positive = SharedMemory::<f32>::new(comptime!(magnitudes as usize));
    if UNIT_POS_X < magnitudes {
        positive[UNIT_POS_X as usize] =
            levels[(UNIT_POS_X + comptime!(level_offset(bits) + magnitudes)) as usize];
    }
    sync_cube();
    // Midpoints between neighbours, in the order of a search: node 1 halves them, nodes 2 and 3 the halves.
    let mut midpoints = SharedMemory::<f32>::new(comptime!(magnitudes as usize));
    if UNIT_POS_X > 0 && UNIT_POS_X < magnitudes {
        // Nodes of a depth are `step` levels apart; the depth's first node has its number of nodes for a number.
        let mut step = magnitudes.runtime();
        let mut nodes = 1u32.runtime();
        while nodes * 2 <= UNIT_POS_X {
            nodes *= 2;
            step /= 2;
        }
        let right = (UNIT_POS_X - nodes) * step + step / 2;
        midpoints[UNIT_POS_X as usize] = (positive[(right - 1) as usize] + positive[right as usize]) * 0.5f32;
    }
    sync_cube();

    // The first depths of the search, which registers have room for.
    let depths = comptime!((bits - 1).min(3));
    let mut nearest = Array::<f32>::new(8usize);

    let lane = UNIT_POS_X % lanes;
    let cube = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let head = cube % heads;
    let token = cube / heads * comptime!(THREADS / lanes) + UNIT_POS_X / lanes;
    let row = token * heads + head;
    let there = token < tokens;
    let first = lane * CHANNELS;
    let mut y = Array::<f32>::new(CHANNELS as usize);
    #[unroll]
    for load in 0..comptime!(CHANNELS as usize / vector) {
        let at = first + comptime!((load * vector) as u32);
        let mut loaded = Vector::<F, N>::new(F::from_int(0));
        if there && at < dim {
            loaded = x[((row * dim + at) / comptime!(vector as u32)) as usize];
        }
        #[unroll]
        for i in 0..N::value() {
            y[comptime!(load * vector) + i] = f32::cast_from(loaded[i]);
        }
    }
    let width = M::value();
    #[unroll]
    for load in 0..comptime!(CHANNELS as usize / width) {
        let at = first + comptime!((load * width) as u32);
        if comptime!(whole) || at < dim {
            let mean = means[((head * dim + at) / comptime!(width as u32)) as usize];
            let sign = channels[(at / comptime!(width as u32)) as usize];
            #[unroll]
            for i in 0..M::value() {
                let channel = comptime!(load * width) + i;
                y[channel] = (y[channel] - mean[i]) * sign[i];
            }
        }
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(exchanged(lanes, plane)));
    transform(&mut y, &mut shared, lane, dim, lanes, plane);
    let mut squares = 0.0f32;
    #[unroll]
    for i in 0..CHANNELS as usize {
        if comptime!(uniform) {
            squares += y[i] * y[i];
        } else {
            let channel = first + comptime!(i as u32);
            let mut scale = 0.0f32;
            if channel < dim {
                let width = comptime!(width as u32);
                scale = channels[((dim + channel) / width) as usize][(comptime!(i as u32) % width) as usize];
            }
            y[i] *= scale;
            squares += y[i] * y[i];
        }
    }
    // A power of two of channels has one scale, which then need not be in every one of them.
    let mut scale = 1.0f32;
    if comptime!(uniform) {
        scale = channels[comptime!(dim as usize / width)][0usize];
    }
    let squared = sum_of_run(squares, &mut shared, lanes, plane) * scale * scale;
    let empty = squared == 0.0f32;
    let root = comptime!((dim as f32).sqrt());
    let to_unit = select(empty, 0.0f32, root / squared.sqrt());
    let factor = to_unit * scale;
    // Numbers are compared as they are, with midpoints in their unit.
    let unit = 1.0f32 / factor;
    #[unroll]
    for node in 1..comptime!(1u32 << depths) {
        nearest[comptime!(node as usize)] = midpoints[comptime!(node as usize)] * unit;
    }

    let mut words = Array::<u32>::new(comptime!(bits as usize));
    #[unroll]
    for i in 0..comptime!(bits as usize) {
        words[i] = 0u32.runtime();
    }
    let mut along = 0.0f32;
    let mut energy = 0.0f32;
    #[unroll]
    for i in 0..CHANNELS as usize {
        let magnitude = y[i].abs();
        let index = search(magnitude, unit, &nearest, &midpoints, bits);
        let mut level = positive[index as usize];
        let mut code =
            index ^ select(y[i] > 0.0f32, magnitudes.runtime(), comptime!(magnitudes - 1).runtime());
        if comptime!(!whole) {
            let inside = first + comptime!(i as u32) < dim;
            level = select(inside, level, 0.0f32);
            code = select(inside, code, 0u32);
        }
        along += magnitude * level;
        if comptime!(!unbiased) {
            energy += level * level;
        }
        let bit = comptime!(i as u32 * bits);
        let word = comptime!((bit / 32) as usize);
        // Bits of codes do not meet, so that a sum is as good as an or, and takes one instruction with the shift.
        words[word] += code * comptime!(1u32 << (bit % 32));
        if comptime!(bit % 32 + bits > 32) {
            words[comptime!(word + 1)] |= code >> comptime!(32 - bit % 32);
        }
    }
    along = sum_of_run(along, &mut shared, lanes, plane) * factor;
    let mut radius = squared * to_unit / along;
    if comptime!(!unbiased) {
        energy = sum_of_run(energy, &mut shared, lanes, plane);
        radius = along / (to_unit * energy);
    }
    // A row of the mean has no direction; one that is no number has no radius either.
    radius = select(empty, 0.0f32, radius);

    let row_words = comptime!((dim * bits).div_ceil(32));
    if there {
        let place = if comptime!(scatter) { places[row as usize] } else { row };
        let at_once = W::value();
        #[unroll]
        for store in 0..comptime!(bits as usize / at_once) {
            let word = lane * bits + comptime!((store * at_once) as u32);
            if comptime!(whole) || word < row_words {
                let mut packed = Vector::<u32, W>::empty();
                #[unroll]
                for i in 0..W::value() {
                    packed[i] = select(empty, 0u32, words[comptime!(store * at_once) + i]);
                }
                codes[((place * row_words + word) / comptime!(at_once as u32)) as usize] = packed;
            }
        }
        if lane == 0 {
            radii[place as usize] = S::cast_from(radius);
        }
    }
}
