//! From weights of blocks to scores.

use cubecl::prelude::*;

/// Below every score.
const LOWEST: f32 = -1e38;

/// `out[head, token]`: for each unit of the head, its blocks' weights added up and smoothed over `size` tokens; the units added up. One score a
/// thread. Tokens that are not there count as 0 in a mean, and not at all in a maximum.
#[allow(clippy::eq_op, reason = "only what is no number differs from itself")]
#[cube(launch_unchecked)]
pub(crate) fn smooth_scores(
    weights: &Array<f32>,
    out: &mut Array<f32>,
    scores: u32,
    prefix: u32,
    units: u32,
    unit_blocks: u32,
    size: u32,
    factor: f32,
    #[comptime] largest: bool,
) {
    let at = ABSOLUTE_POS as u32;
    if at < scores {
        let head = at / prefix;
        let token = at % prefix;
        let reach = size / 2;
        let mut score = 0.0f32;
        for unit in 0..units {
            let mut smoothed = if comptime!(largest) { f32::new(LOWEST) } else { f32::new(0.0) };
            for place in 0..size {
                if token + place >= reach && token + place - reach < prefix {
                    let other = token + place - reach;
                    let mut sum = 0.0f32;
                    for block in 0..unit_blocks {
                        let row = (head * units + unit) * unit_blocks + block;
                        sum += weights[(row * prefix + other) as usize];
                    }
                    if comptime!(largest) {
                        // What is no number stays none.
                        smoothed = select(sum > smoothed || sum != sum, sum, smoothed);
                    } else {
                        smoothed += sum;
                    }
                }
            }
            score += smoothed;
        }
        out[at as usize] = score * factor;
    }
}
