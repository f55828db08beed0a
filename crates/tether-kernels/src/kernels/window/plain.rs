//! The two passes without matrix units: blocks of 64 query rows by 64 tokens out of shared memory, 4 by 4 logits a thread.

use cubecl::prelude::*;

use super::{
    Extents, MASKED, NOTHING, block_of_cube, exp2, first_row, first_tile, log_of, log_sum, rows_of_block,
    tiles_of_cube,
};
use crate::kernels::products::{BLOCK, DEPTH, EACH, LANES, STRIDE, products};

/// `logs[block, part]`: for each row, `log2` of the sum of `2^logit` over the part's tokens that it sees.
#[cube(launch_unchecked)]
pub(crate) fn plain_log_sums<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    logs: &mut Array<f32>,
    extents: &Extents,
    dim: u32,
    scale: f32,
) {
    let mut rows_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut tokens_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut peaks = SharedMemory::<f32>::new(comptime!((BLOCK * LANES) as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((BLOCK * LANES) as usize));
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let first = first_row(extents, BLOCK);
    let rows = rows_of_block(extents, BLOCK);
    let tiles = extents.tokens.div_ceil(BLOCK);

    let mut highest = Array::<f32>::new(EACH as usize);
    let mut sums = Array::<f32>::new(EACH as usize);
    #[unroll]
    for i in 0..EACH {
        highest[i as usize] = f32::new(NOTHING);
        sums[i as usize] = 0.0f32;
    }
    for tile in 0..tiles_of_cube(tiles) {
        let token = (first_tile(tiles) + tile) * BLOCK;
        let logits = products::<F, N, F, N>(
            q,
            k,
            &mut rows_of,
            &mut tokens_of,
            CUBE_POS_Z * extents.rows + first,
            rows,
            CUBE_POS_Z * extents.tokens + token,
            extents.tokens - token,
            dim,
        );
        #[unroll]
        for i in 0..EACH {
            let row = first + lane_y + LANES * i;
            let last_seen = extents.tokens - extents.window + row % extents.window;
            let mut seen = Array::<f32>::new(EACH as usize);
            let mut peak = highest[i as usize];
            #[unroll]
            for j in 0..EACH {
                let logit = logits[(EACH * i + j) as usize] * scale;
                seen[j as usize] = select(token + lane_x + LANES * j <= last_seen, logit, f32::new(MASKED));
                peak = peak.max(seen[j as usize]);
            }
            let mut sum = sums[i as usize] * exp2(highest[i as usize] - peak, false);
            #[unroll]
            for j in 0..EACH {
                sum += exp2(seen[j as usize] - peak, false);
            }
            highest[i as usize] = peak;
            sums[i as usize] = sum;
        }
    }
    #[unroll]
    for i in 0..EACH {
        let place = (lane_y + LANES * i) * LANES + lane_x;
        peaks[place as usize] = highest[i as usize];
        totals[place as usize] = sums[i as usize];
    }
    sync_cube();
    if UNIT_POS < BLOCK {
        let mut peak = f32::new(NOTHING);
        #[unroll]
        for lane in 0..LANES {
            peak = peak.max(peaks[(UNIT_POS * LANES + lane) as usize]);
        }
        let mut total = 0.0f32;
        #[unroll]
        for lane in 0..LANES {
            let place = (UNIT_POS * LANES + lane) as usize;
            total += totals[place] * exp2(peaks[place] - peak, false);
        }
        let at = (block_of_cube() * CUBE_COUNT_X + CUBE_POS_X) * BLOCK + UNIT_POS;
        logs[at as usize] = log_of(peak, total);
    }
}

/// `weights[block, token]`: softmax weights added up over the block's rows, times `factor`, of the tokens before the window.
#[cube(launch_unchecked)]
pub(crate) fn plain_weights<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    logs: &Array<f32>,
    weights: &mut Array<f32>,
    extents: &Extents,
    parts: u32,
    dim: u32,
    scale: f32,
    factor: f32,
) {
    let mut rows_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut tokens_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut log_sums = SharedMemory::<f32>::new(comptime!(BLOCK as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((BLOCK * LANES) as usize));
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let first = first_row(extents, BLOCK);
    let rows = rows_of_block(extents, BLOCK);
    let prefix = extents.tokens - extents.window;
    let tiles = prefix.div_ceil(BLOCK);

    let row = UNIT_POS % BLOCK;
    let log = log_sum(logs, row, parts, BLOCK, false);
    if UNIT_POS < BLOCK {
        // Rows that are not there weigh nothing.
        log_sums[row as usize] = select(row < rows, log, f32::new(-MASKED));
    }
    sync_cube();
    for tile in 0..tiles_of_cube(tiles) {
        let token = (first_tile(tiles) + tile) * BLOCK;
        let logits = products::<F, N, F, N>(
            q,
            k,
            &mut rows_of,
            &mut tokens_of,
            CUBE_POS_Z * extents.rows + first,
            rows,
            CUBE_POS_Z * extents.tokens + token,
            extents.tokens - token,
            dim,
        );
        #[unroll]
        for j in 0..EACH {
            let mut sum = 0.0f32;
            #[unroll]
            for i in 0..EACH {
                let logit = logits[(EACH * i + j) as usize] * scale;
                sum += exp2(logit - log_sums[(lane_y + LANES * i) as usize], false);
            }
            totals[(lane_y * BLOCK + lane_x + LANES * j) as usize] = sum;
        }
        sync_cube();
        if UNIT_POS < BLOCK && token + UNIT_POS < prefix {
            let mut total = 0.0f32;
            #[unroll]
            for lane in 0..LANES {
                total += totals[(lane * BLOCK + UNIT_POS) as usize];
            }
            weights[(block_of_cube() * prefix + token + UNIT_POS) as usize] = total * factor;
        }
    }
}
