//! Partial results of one row, merged.

use cubecl::prelude::*;

/// `out[row] = sum over parts of e^(lse[part] - max) part / sum of the same weights`, and the row's log-sum-exp. `parts` is
/// `[rows, count, dim]`, `part_lse` `[rows, count]`. One element of a row a thread.
#[cube(launch_unchecked)]
pub(crate) fn combine_parts<F: Float>(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    rows: u32,
    count: u32,
    dim: u32,
) {
    let row = ABSOLUTE_POS as u32 / dim;
    let channel = ABSOLUTE_POS as u32 % dim;
    if row < rows {
        let mut highest = f32::new(-1e30);
        for part in 0..count {
            highest = highest.max(part_lse[(row * count + part) as usize]);
        }
        let mut sum = 0.0f32;
        let mut weights = 0.0f32;
        for part in 0..count {
            let at = row * count + part;
            let value = part_lse[at as usize];
            if value > f32::new(-1e29) {
                let weight = (value - highest).exp();
                weights += weight;
                sum += weight * parts[(at * dim + channel) as usize];
            }
        }
        let mut result = 0.0f32;
        let mut total = f32::new(-1e30);
        if weights > 0.0f32 {
            result = sum / weights;
            total = highest + weights.ln();
        }
        out[ABSOLUTE_POS] = F::cast_from(result);
        if channel == 0u32 {
            lse[row as usize] = total;
        }
    }
}
