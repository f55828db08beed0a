//! Scores of rows: their lengths, products with a vector of their head, and means of rows.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;

/// What [`row_products`] makes of a row and its head's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Product {
    /// The length of the row.
    Length,
    /// `row . vector`.
    Dot,
    /// The cosine of both.
    Cosine,
    /// The mean cosine of the row and the other ones, where `vector` is the mean of their directions and `factor` one
    /// over their number.
    Others,
}

/// A length that nothing is divided by less than.
const SHORTEST: f32 = 1e-12;

/// What keeps a row of no length from being divided by it.
const EPSILON: f32 = 1e-8;

/// One number for each of the first `rows` rows of a head of `x`, `[heads, stride, dim]`, times `factor`. A row is
/// `row` vectors; `vectors` is `[heads, dim]`.
#[cube(launch_unchecked)]
pub(crate) fn row_products<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    vectors: &Array<f32>,
    out: &mut Array<f32>,
    heads: u32,
    stride: u32,
    rows: u32,
    row: u32,
    factor: f32,
    #[comptime] product: Product,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let width = N::value();
    if at < heads * rows {
        let head = at / rows;
        let begin = (head * stride + at % rows) * row;
        let dim = row * comptime!(width as u32);
        let mut squares = 0.0f32;
        let mut dot = 0.0f32;
        let mut of_vector = 0.0f32;
        for i in 0..row {
            let part = x[(begin + i) as usize];
            #[unroll]
            for j in 0..width {
                let number = f32::cast_from(part[j]);
                if comptime!(product != Product::Dot) {
                    squares += number * number;
                }
                if comptime!(product != Product::Length) {
                    let other = vectors[(head * dim + i * comptime!(width as u32) + j as u32) as usize];
                    dot += number * other;
                    of_vector += other * other;
                }
            }
        }
        let mut result = dot;
        if comptime!(product == Product::Length) {
            result = squares.sqrt();
        }
        if comptime!(product == Product::Cosine) {
            result =
                dot / (squares.sqrt().max(f32::new(SHORTEST)) * of_vector.sqrt().max(f32::new(SHORTEST)));
        }
        if comptime!(product == Product::Others) {
            // Its cosine with itself is among the mean; a row of no length is like none.
            let length = squares.sqrt() + f32::new(EPSILON);
            let own = squares.sqrt() / length;
            out[at as usize] = dot / length - own * own * factor;
        } else {
            out[at as usize] = result * factor;
        }
    }
}

/// Means of a part of the first `rows` rows of each head of `x`, `[heads, stride, dim]`: `[heads, parts, dim]`, where
/// rows count divided by their `lengths` `[heads, rows]` with `directions`. Sums are divided by `total`. Cube x
/// counts blocks of channels, cube y parts, cube z heads.
#[cube(launch_unchecked)]
pub(crate) fn row_means<F: Float>(
    x: &Array<F>,
    lengths: &Array<f32>,
    out: &mut Array<f32>,
    stride: u32,
    rows: u32,
    dim: u32,
    total: f32,
    #[comptime] directions: bool,
) {
    let channel = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    let (part, parts, head) = (CUBE_POS_Y, CUBE_COUNT_Y, CUBE_POS_Z);
    let of_part = rows.div_ceil(parts);
    let begin = part * of_part;
    let mut end = begin + of_part;
    if end > rows {
        end = rows;
    }
    if channel < dim {
        let mut sum = 0.0f32;
        let mut row = begin;
        while row < end {
            let number = f32::cast_from(x[((head * stride + row) * dim + channel) as usize]);
            if comptime!(directions) {
                sum += number / lengths[(head * rows + row) as usize].max(f32::new(SHORTEST));
            } else {
                sum += number;
            }
            row += 1u32;
        }
        out[((head * parts + part) * dim + channel) as usize] = sum / total;
    }
}

/// Sums of a part of each head's numbers times `factor`, `x` `[heads, columns]`: `[heads, parts]`. Cube x counts
/// parts, cube y heads.
#[cube(launch_unchecked)]
pub(crate) fn column_sums(x: &Array<f32>, out: &mut Array<f32>, columns: u32, factor: f32) {
    let mut sums = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let of_part = columns.div_ceil(CUBE_COUNT_X);
    let begin = CUBE_POS_X * of_part;
    let mut end = begin + of_part;
    if end > columns {
        end = columns;
    }
    let mut sum = 0.0f32;
    let mut column = begin + UNIT_POS_X;
    while column < end {
        sum += x[(CUBE_POS_Y * columns + column) as usize] * factor;
        column += THREADS;
    }
    sums[UNIT_POS_X as usize] = sum;
    sync_cube();
    if UNIT_POS_X == 0 {
        let mut all = 0.0f32;
        for i in 0..THREADS {
            all += sums[i as usize];
        }
        out[(CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize] = all;
    }
}

/// Means of `count` numbers that lie `step` apart: number `[h, i]` of `[heads, columns]`, which begin at `to` of
/// `out`, is that of `x` from `h * head_step + (first + i) * column_step` on, times `factor`.
#[cube(launch_unchecked)]
pub(crate) fn strided_means(
    x: &Array<f32>,
    out: &mut Array<f32>,
    heads: u32,
    columns: u32,
    first: u32,
    head_step: u32,
    column_step: u32,
    step: u32,
    count: u32,
    to: u32,
    factor: f32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * columns {
        let begin = at / columns * head_step + (first + at % columns) * column_step;
        let mut sum = 0.0f32;
        for i in 0..count {
            sum += x[(begin + i * step) as usize];
        }
        out[(to + at) as usize] = sum * factor / f32::cast_from(count);
    }
}

/// Rows of the pools of some tokens of lists of `tokens`: the first ones, those of `chosen`, counted from there on,
/// and the last ones. `[lists, count]`.
#[cube(launch_unchecked)]
pub(crate) fn chosen_rows(
    starts: &Array<u32>,
    pages: &Array<u32>,
    chosen: &Array<u32>,
    out: &mut Array<u32>,
    lists: u32,
    tokens: u32,
    count: u32,
    first: u32,
    last: u32,
    page_size: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < lists * count {
        let list = at / count;
        let place = at % count;
        let between = count - first - last;
        let mut token = place;
        if place >= first {
            token = tokens - (count - place);
            if place - first < between {
                token = first + chosen[(list * between + place - first) as usize];
            }
        }
        let page = pages[(starts[list as usize] + token / page_size) as usize];
        out[at as usize] = page * page_size + token % page_size;
    }
}

/// Rows of the pools in the order of the lists: `[lists, tokens]`.
#[cube(launch_unchecked)]
pub(crate) fn list_rows(
    starts: &Array<u32>,
    pages: &Array<u32>,
    out: &mut Array<u32>,
    lists: u32,
    tokens: u32,
    page_size: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < lists * tokens {
        let token = at % tokens;
        let page = pages[(starts[(at / tokens) as usize] + token / page_size) as usize];
        out[at as usize] = page * page_size + token % page_size;
    }
}
