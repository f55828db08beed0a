//! What rows give under a matrix of their head, and the matrices that expected attention asks for.

use cubecl::prelude::*;

use super::products::{BLOCK, DEPTH, EACH, LANES, STRIDE, THREADS, products};

/// What [`row_forms`] makes of a row `x` and the rows `m` of its head's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// The sum of `|m . x|`.
    Absolute,
    /// The sum of `x_i * (m_i . x + number_i)`.
    Quadratic,
    /// The largest `(m . x) / number`.
    Largest,
}

/// A length that nothing is divided by less than.
const SHORTEST: f32 = 1e-12;

/// Below every product that counts.
const LOWEST: f32 = -1e30;

/// One number for each row of `x` `[heads / group, stride, dim]`, of which `rows` count, and each of the `group`
/// heads that it belongs to: `[heads, rows]`. `matrices` is `[heads, count, dim]` and `numbers` `[heads, count]`.
/// Rows are single numbers where the form is quadratic. Cube x counts blocks of rows, cube y heads.
#[cube(launch_unchecked)]
pub(crate) fn row_forms<A: Float, M: Size, F: Float, N: Size>(
    matrices: &Array<Vector<A, M>>,
    numbers: &Array<f32>,
    x: &Array<Vector<F, N>>,
    out: &mut Array<f32>,
    count: u32,
    group: u32,
    stride: u32,
    rows: u32,
    dim: u32,
    #[comptime] form: Form,
) {
    let mut rows_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut tokens_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((BLOCK * LANES) as usize));
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let head = CUBE_POS_Y;
    let token = CUBE_POS_X * BLOCK;
    let first_token = head / group * stride + token;
    let mut results = Array::<f32>::new(EACH as usize);
    #[unroll]
    for j in 0..EACH {
        results[j as usize] = if comptime!(form == Form::Largest) { f32::new(LOWEST) } else { f32::new(0.0) };
    }
    for block in 0..count.div_ceil(BLOCK) {
        let first = block * BLOCK;
        let sums = products::<A, M, F, N>(
            matrices,
            x,
            &mut rows_of,
            &mut tokens_of,
            head * count + first,
            count - first,
            first_token,
            rows - token,
            dim,
        );
        #[unroll]
        for i in 0..EACH {
            let row = first + lane_y + LANES * i;
            if row < count {
                #[unroll]
                for j in 0..EACH {
                    let sum = sums[(EACH * i + j) as usize];
                    if comptime!(form == Form::Absolute) {
                        results[j as usize] += sum.abs();
                    }
                    if comptime!(form == Form::Largest) {
                        let number = numbers[(head * count + row) as usize].max(f32::new(SHORTEST));
                        results[j as usize] = results[j as usize].max(sum / number);
                    }
                    if comptime!(form == Form::Quadratic) {
                        let of = lane_x + LANES * j;
                        if token + of < rows {
                            let own = f32::cast_from(x[((first_token + of) * dim + row) as usize][0]);
                            results[j as usize] += own * (sum + numbers[(head * count + row) as usize]);
                        }
                    }
                }
            }
        }
    }
    #[unroll]
    for j in 0..EACH {
        totals[(lane_y * BLOCK + lane_x + LANES * j) as usize] = results[j as usize];
    }
    sync_cube();
    if UNIT_POS < BLOCK && token + UNIT_POS < rows {
        let mut total = totals[UNIT_POS as usize];
        #[unroll]
        for lane in 1..LANES {
            let other = totals[(lane * BLOCK + UNIT_POS) as usize];
            if comptime!(form == Form::Largest) {
                total = total.max(other);
            } else {
                total += other;
            }
        }
        out[(head * rows + token + UNIT_POS) as usize] = total;
    }
}

/// Sums over a part of the rows of `x`, `[heads, rows, dim]`, of the products of channels less their `means` `[heads,
/// dim]`: `[heads, parts, dim, dim]`. Cube x counts parts, cube y heads, cube z blocks of 64 by 64 channels.
#[cube(launch_unchecked)]
pub(crate) fn row_covariances<F: Float>(
    x: &Array<F>,
    means: &Array<f32>,
    out: &mut Array<f32>,
    rows: u32,
    dim: u32,
) {
    let mut left = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut right = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let blocks = dim.div_ceil(BLOCK);
    let of_left = CUBE_POS_Z / blocks * BLOCK;
    let of_right = CUBE_POS_Z % blocks * BLOCK;
    let of_part = rows.div_ceil(CUBE_COUNT_X);
    let begin = CUBE_POS_X * of_part;
    let mut end = begin + of_part;
    if end > rows {
        end = rows;
    }
    let mut sums = Array::<f32>::new(comptime!((EACH * EACH) as usize));
    #[unroll]
    for i in 0..comptime!((EACH * EACH) as usize) {
        sums[i] = 0.0f32;
    }
    for step in 0..of_part.div_ceil(DEPTH) {
        sync_cube();
        #[unroll]
        for part in 0..comptime!(BLOCK * DEPTH / THREADS) {
            let number = part * THREADS + UNIT_POS;
            let row = begin + step * DEPTH + number / BLOCK;
            let to = number / BLOCK * STRIDE + number % BLOCK;
            let channels = number % BLOCK;
            let mut a = 0.0f32;
            let mut b = 0.0f32;
            if row < end {
                let from = (CUBE_POS_Y * rows + row) * dim;
                if of_left + channels < dim {
                    a = f32::cast_from(x[(from + of_left + channels) as usize])
                        - means[(CUBE_POS_Y * dim + of_left + channels) as usize];
                }
                if of_right + channels < dim {
                    b = f32::cast_from(x[(from + of_right + channels) as usize])
                        - means[(CUBE_POS_Y * dim + of_right + channels) as usize];
                }
            }
            left[to as usize] = a;
            right[to as usize] = b;
        }
        sync_cube();
        #[unroll]
        for d in 0..DEPTH {
            #[unroll]
            for i in 0..EACH {
                let a = left[(d * STRIDE + lane_y + LANES * i) as usize];
                #[unroll]
                for j in 0..EACH {
                    sums[(EACH * i + j) as usize] += a * right[(d * STRIDE + lane_x + LANES * j) as usize];
                }
            }
        }
    }
    #[unroll]
    for i in 0..EACH {
        #[unroll]
        for j in 0..EACH {
            let (row, column) = (of_left + lane_y + LANES * i, of_right + lane_x + LANES * j);
            if row < dim && column < dim {
                let matrix = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
                out[((matrix * dim + row) * dim + column) as usize] = sums[(EACH * i + j) as usize];
            }
        }
    }
}

/// Means `[heads, dim]` and covariances `[heads, dim, dim]` under a linear map that makes of each channel and its
/// partner a channel: `factors` is `[dim, 2]`. Both times a factor; without `covariance` there is none, and nothing
/// is read.
#[cube(launch_unchecked)]
pub(crate) fn rotated_moments(
    means: &Array<f32>,
    covariances: &Array<f32>,
    partners: &Array<u32>,
    factors: &Array<f32>,
    out_means: &mut Array<f32>,
    out_covariances: &mut Array<f32>,
    heads: u32,
    dim: u32,
    mean_factor: f32,
    covariance_factor: f32,
    #[comptime] covariance: bool,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * dim * dim {
        let head = at / (dim * dim);
        let row = at / dim % dim;
        let column = at % dim;
        let other_row = partners[row as usize];
        let (own, other) = (factors[(2 * row) as usize], factors[(2 * row + 1) as usize]);
        if column == 0 {
            let mean =
                own * means[(head * dim + row) as usize] + other * means[(head * dim + other_row) as usize];
            out_means[(head * dim + row) as usize] = mean * mean_factor;
        }
        let mut sum = 0.0f32;
        if comptime!(covariance) {
            let other_column = partners[column as usize];
            let (first, second) = (factors[(2 * column) as usize], factors[(2 * column + 1) as usize]);
            let (of_row, of_other) = ((head * dim + row) * dim, (head * dim + other_row) * dim);
            sum = own
                * (first * covariances[(of_row + column) as usize]
                    + second * covariances[(of_row + other_column) as usize])
                + other
                    * (first * covariances[(of_other + column) as usize]
                        + second * covariances[(of_other + other_column) as usize]);
        }
        out_covariances[at as usize] = sum * covariance_factor;
    }
}
