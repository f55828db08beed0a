//! Running results of a cube's warps, merged.

use cubecl::prelude::*;

/// Writes the part's results, of as many of the cube's `rows` rows of queries as there are: sums `all` `[warps, rows, dim]`, and `[warps, rows]` the highest logit and the
/// sum of weights relative to it. Query `first_query` is the first row's. All threads take part.
#[cube]
pub(super) fn merge_warps<O: Float>(
    all: &SharedMemory<f32>,
    tops: &SharedMemory<f32>,
    totals: &SharedMemory<f32>,
    out: &mut Array<O>,
    lse: &mut Array<f32>,
    first_query: u32,
    rows_there: u32,
    #[comptime] dim: u32,
    #[comptime] rows: u32,
    #[comptime] warps: u32,
) {
    sync_cube();
    let mut i = UNIT_POS;
    while i < rows * dim {
        let row = i / dim;
        let channel = i % dim;
        if row < rows_there {
            let mut top = f32::new(-1e30);
            #[unroll]
            for w in 0..comptime!(warps as usize) {
                top = top.max(tops[(row + comptime!(w as u32 * rows)) as usize]);
            }
            let mut total = 0.0f32;
            let mut sum = 0.0f32;
            #[unroll]
            for w in 0..comptime!(warps as usize) {
                let place = row + comptime!(w as u32 * rows);
                let weight = (tops[place as usize] - top).exp();
                total += weight * totals[place as usize];
                sum += weight * all[(place * dim + channel) as usize];
            }
            let mut result = 0.0f32;
            let mut log_sum = f32::new(-1e30);
            if total > 0.0f32 {
                result = sum / total;
                log_sum = top + total.ln();
            }
            let at = (first_query + row) * CUBE_COUNT_X + CUBE_POS_X;
            out[(at * dim + channel) as usize] = O::cast_from(result);
            if channel == 0u32 {
                lse[at as usize] = log_sum;
            }
        }
        i += comptime!(warps * 32);
    }
}
