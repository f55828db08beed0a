//! Likeness of tokens in frames.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;

/// A length that nothing is divided by less than.
const SHORTEST: f32 = 1e-12;

/// One less the mean cosine of each row of `x`, `[tokens, dim]`, whose `lengths` are known, and of `places` others,
/// `neighbours` `[tokens, places]`; a row is not its own neighbour, and 0 is what it has without any. The same for
/// all heads: `[heads, tokens]`.
#[cube(launch_unchecked)]
pub(crate) fn neighbour_saliency<F: Float>(
    x: &Array<F>,
    lengths: &Array<f32>,
    neighbours: &Array<u32>,
    out: &mut Array<f32>,
    heads: u32,
    tokens: u32,
    dim: u32,
    places: u32,
) {
    let token = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if token < tokens {
        let own = lengths[token as usize].max(f32::new(SHORTEST));
        let mut sum = 0.0f32;
        let mut count = u32::new(0);
        for place in 0..places {
            let other = neighbours[(token * places + place) as usize];
            if other != token {
                let mut dot = 0.0f32;
                for channel in 0..dim {
                    dot += f32::cast_from(x[(token * dim + channel) as usize])
                        * f32::cast_from(x[(other * dim + channel) as usize]);
                }
                sum += dot / (own * lengths[other as usize].max(f32::new(SHORTEST)));
                count += 1u32;
            }
        }
        let mut saliency = 0.0f32;
        if count > 0 {
            saliency = 1.0f32 - sum / f32::cast_from(count);
        }
        for head in 0..heads {
            out[(head * tokens + token) as usize] = saliency;
        }
    }
}

/// Minus `x` over `lengths`.
#[cube(launch_unchecked)]
pub(crate) fn negated_quotients(x: &Array<f32>, lengths: &Array<f32>, out: &mut Array<f32>, count: u32) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < count {
        out[at as usize] = -x[at as usize] / lengths[at as usize].max(f32::new(SHORTEST));
    }
}

/// 0 for each token whose likeness, minus its number in `numbers`, is above `limit`, and 1 for the others: `[heads,
/// tokens]`. `places` say where a token's number is; those without one have the place `none`.
#[cube(launch_unchecked)]
pub(crate) fn open_gate(
    numbers: &Array<f32>,
    limit: &Array<f32>,
    places: &Array<u32>,
    out: &mut Array<f32>,
    heads: u32,
    tokens: u32,
    none: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * tokens {
        let place = places[(at % tokens) as usize];
        let mut open = 1.0f32;
        let there = place != none;
        let likeness = -numbers[select(there, place, 0u32) as usize];
        if there && likeness > limit[0] {
            open = 0.0f32;
        }
        out[at as usize] = open;
    }
}
