//! Partial results of one row, merged.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const COMBINE_THREADS: u32 = 128;

/// Most parts of a row.
pub(crate) const MOST_PARTS: usize = 128;

/// `out[row] = sum over parts of e^(lse[part] - max) part / sum of the same weights`, and the row's log-sum-exp. `parts` is
/// `[rows, count, dim]`, `part_lse` `[rows, count]`. One row a cube.
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
    let mut all = SharedMemory::<f32>::new(MOST_PARTS);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if UNIT_POS_X < count && row < rows {
        all[UNIT_POS_X as usize] = part_lse[(row * count + UNIT_POS_X) as usize];
    }
    sync_cube();
    let mut highest = f32::new(-1e30);
    for part in 0..count {
        highest = highest.max(all[part as usize]);
    }
    let mut weights = 0.0f32;
    for part in 0..count {
        let value = all[part as usize];
        // An empty part has a finite stand-in for no weight, which must not become one.
        let weight = select(value > f32::new(-1e29), (value - highest).exp(), 0.0f32);
        weights += weight;
    }
    let mut channel = UNIT_POS_X;
    if row < rows {
        while channel < dim {
            let first = row * count * dim + channel;
            let mut sum = 0.0f32;
            let mut part = 0u32;
            // Four loads under way at a time.
            while part + 4u32 <= count {
                let mut values = Array::<f32>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    values[i] = parts[(first + (part + i as u32) * dim) as usize];
                }
                #[unroll]
                for i in 0..4usize {
                    sum += (all[(part + i as u32) as usize] - highest).exp() * values[i];
                }
                part += 4u32;
            }
            while part < count {
                sum += (all[part as usize] - highest).exp() * parts[(first + part * dim) as usize];
                part += 1u32;
            }
            // Empty parts hold zeros, so that their weight does not matter above.
            out[(row * dim + channel) as usize] =
                F::cast_from(select(weights > 0.0f32, sum / weights, 0.0f32));
            channel += COMBINE_THREADS;
        }
        if UNIT_POS_X == 0u32 {
            lse[row as usize] = select(weights > 0.0f32, highest + weights.ln(), f32::new(-1e30));
        }
    }
}
