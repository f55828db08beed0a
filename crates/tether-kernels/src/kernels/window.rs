//! Observation-window scores in two passes over the keys, because a softmax needs its sum before its first weight can be written: logits of a
//! 128k prompt are half a gigabyte, and computing them twice is cheaper than writing them.
//!
//! 1. `*_log_sums`: for each query row and part of the tokens, the logarithm of the softmax's sum.
//! 2. `*_weights`: logits again; their weights, added up over the query rows of a block.
//! 3. `smooth_scores`: sums over blocks, smoothing, mean over the group. Left out where there is nothing to do.
//!
//! Cube x counts parts of the tokens, cube y blocks of query rows, cube z key heads. A block's rows belong to one *unit*, which is what is
//! smoothed as one: all query heads of a key head where smoothing is linear, else one query head. Logits are in units of `log2`.

mod matrix;
mod plain;
mod smoothing;

pub(crate) use matrix::{Matrix, matrix_log_sums, matrix_weights};
pub(crate) use plain::{plain_log_sums, plain_weights};
pub(crate) use smoothing::smooth_scores;

use cubecl::prelude::*;

/// Below every logit that counts, and above [`MASKED`], so that a row which has seen nothing yet adds nothing.
const NOTHING: f32 = -1e20;
/// The logit of what a query does not see.
const MASKED: f32 = -1e30;

/// Extents of a launch, and where query rows lie: rows of a key head are `[group, window]`.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub(crate) struct Extents {
    pub(crate) tokens: u32,
    pub(crate) window: u32,
    /// Query rows of a key head.
    pub(crate) rows: u32,
    /// Query rows of a unit, and blocks that they are cut into.
    pub(crate) unit_rows: u32,
    pub(crate) unit_blocks: u32,
}

/// First row of this cube's block, of those of its key head.
#[cube]
fn first_row(extents: &Extents, #[comptime] block_rows: u32) -> u32 {
    CUBE_POS_Y / extents.unit_blocks * extents.unit_rows + CUBE_POS_Y % extents.unit_blocks * block_rows
}

/// Rows of this cube's block.
#[cube]
fn rows_of_block(extents: &Extents, #[comptime] block_rows: u32) -> u32 {
    let rest = extents.unit_rows - CUBE_POS_Y % extents.unit_blocks * block_rows;
    select(rest < block_rows, rest, block_rows.runtime())
}

/// This cube's block, of all key heads' blocks.
#[cube]
fn block_of_cube() -> u32 {
    CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y
}

/// First of this cube's tiles, of `tiles`; cubes' counts differ by one at most.
#[cube]
fn first_tile(tiles: u32) -> u32 {
    let extra = tiles % CUBE_COUNT_X;
    CUBE_POS_X * (tiles / CUBE_COUNT_X) + select(CUBE_POS_X < extra, CUBE_POS_X, extra)
}

/// Number of this cube's tiles.
#[cube]
fn tiles_of_cube(tiles: u32) -> u32 {
    tiles / CUBE_COUNT_X + select(CUBE_POS_X < tiles % CUBE_COUNT_X, 1u32, 0u32)
}

/// `2^x`. CUDA has an instruction for it, which a power of the constant 2 becomes under fast math.
#[cube]
fn exp2(x: f32, #[comptime] instruction: bool) -> f32 {
    if comptime!(instruction) { f32::new(2.0).powf(x) } else { (x * std::f32::consts::LN_2).exp() }
}

/// `reference + log2(sum)`: what a part leaves for a row of which it has seen `sum` of `2^(logit - reference)`.
#[cube]
fn log_of(reference: f32, sum: f32) -> f32 {
    select(sum > 0.0f32, reference + sum.ln() * std::f32::consts::LOG2_E, f32::new(MASKED))
}

/// Parts whose logarithms a thread reads at once, so that it waits for memory a few times and not for each.
const AT_ONCE: u32 = 16;

/// A row's `log2` of the sum of `2^logit` over all parts, of which `logs` has one each: `[blocks, parts, block_rows]`.
#[cube]
fn log_sum(
    logs: &Array<f32>,
    row: u32,
    parts: u32,
    #[comptime] block_rows: u32,
    #[comptime] instruction: bool,
) -> f32 {
    let first = block_of_cube() * parts * block_rows + row;
    let mut peak = f32::new(NOTHING);
    let mut sum = f32::new(0.0);
    for batch in 0..parts.div_ceil(AT_ONCE) {
        let mut values = Array::<f32>::new(AT_ONCE as usize);
        let mut higher = peak;
        #[unroll]
        for i in 0..AT_ONCE {
            let part = batch * AT_ONCE + i;
            let there = part < parts;
            let value = logs[(first + select(there, part, 0u32) * block_rows) as usize];
            values[i as usize] = select(there, value, f32::new(MASKED));
            higher = higher.max(values[i as usize]);
        }
        sum *= exp2(peak - higher, instruction);
        #[unroll]
        for i in 0..AT_ONCE {
            sum += exp2(values[i as usize] - higher, instruction);
        }
        peak = higher;
    }
    peak + sum.ln() * std::f32::consts::LOG2_E
}
