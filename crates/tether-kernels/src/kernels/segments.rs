//! Rows that are made of others, and attention to rows that stand for many.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 64;
/// Lower than any logit that counts.
const NOTHING: f32 = -1e29;

/// Means of rows of `x`, each times its weight, over the entries of a list; and the sums of the weights. A cube makes a list's.
#[cube(launch_unchecked)]
pub(crate) fn weighted_rows<F: Float, O: Float>(
    x: &Array<F>,
    starts: &Array<u32>,
    rows: &Array<u32>,
    weights: &Array<f32>,
    out: &mut Array<O>,
    totals: &mut Array<f32>,
    lists: u32,
    dim: u32,
) {
    let list = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if list < lists {
        let begin = starts[list as usize];
        let end = starts[list as usize + 1];
        let mut total = 0.0f32;
        let mut entry = begin;
        while entry < end {
            total += weights[entry as usize];
            entry += 1u32;
        }
        // The mean of nothing is 0.
        let mut divisor = total;
        if total == 0.0f32 {
            divisor = 1.0f32;
        }
        let mut channel = UNIT_POS_X;
        while channel < dim {
            let mut sum = 0.0f32;
            let mut entry = begin;
            while entry < end {
                let at = rows[entry as usize] * dim + channel;
                sum += weights[entry as usize] * f32::cast_from(x[at as usize]);
                entry += 1u32;
            }
            out[(list * dim + channel) as usize] = O::cast_from(sum / divisor);
            channel += CUBE_DIM_X;
        }
        if UNIT_POS_X == 0 {
            totals[list as usize] = total;
        }
    }
}

/// Merges attention to one more token of each key head into `out` and `lse`: of queries `first..first + count`, rows of `dim_k` numbers. A cube does a query's.
#[cube(launch_unchecked)]
pub(crate) fn attend_stand_ins<F: Float>(
    q: &Array<F>,
    keys: &Array<f32>,
    values: &Array<f32>,
    biases: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    first: u32,
    count: u32,
    query_heads: u32,
    group: u32,
    scale: f32,
    dim_k: u32,
    dim_v: u32,
) {
    let mut parts = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let number = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let mut row = first;
    if number < count {
        row = first + number;
    }
    let head = row % query_heads / group;
    let mut part = 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < dim_k {
        part += f32::cast_from(q[(row * dim_k + channel) as usize]) * keys[(head * dim_k + channel) as usize];
        channel += THREADS;
    }
    parts[UNIT_POS_X as usize] = part;
    let own = lse[row as usize];
    sync_cube();
    let bias = biases[head as usize];
    if number < count && bias > f32::new(NOTHING) {
        let mut dot = 0.0f32;
        for i in 0..THREADS {
            dot += parts[i as usize];
        }
        let other = dot * scale + bias;
        let top = own.max(other);
        let weight = (own - top).exp();
        let of_other = (other - top).exp();
        let total = weight + of_other;
        let mut channel = UNIT_POS_X;
        while channel < dim_v {
            let at = (row * dim_v + channel) as usize;
            let value = values[(head * dim_v + channel) as usize];
            out[at] = F::cast_from((weight * f32::cast_from(out[at]) + of_other * value) / total);
            channel += THREADS;
        }
        if UNIT_POS_X == 0 {
            lse[row as usize] = top + total.ln();
        }
    }
}
