//! Attention of a few queries, each of which sees a number of tokens of its own: logits, their softmax, and the best
//! of spans.

use cubecl::prelude::*;

use super::products::{BLOCK, DEPTH, EACH, LANES, STRIDE, products};

/// Threads of a cube that looks after a row.
pub(crate) const THREADS: u32 = 256;

/// The logit of what a query does not see, and below every logit that counts.
const MASKED: f32 = -1e30;

/// Logits of key heads from `first_head` on, `[heads, rows, columns]`: of queries `[kv_heads, group, count, dim]`
/// with the first `columns` of the keys `[kv_heads, tokens, dim]`. Query `i` of a query head sees `visible[i]`
/// tokens. Rows are a key head's queries, or with `largest` those of one query head, each with the largest logit over
/// the group. Cube x counts blocks of columns, cube y blocks of rows, cube z key heads.
#[cube(launch_unchecked)]
pub(crate) fn query_logits<F: Float, N: Size>(
    q: &Array<Vector<F, N>>,
    k: &Array<Vector<F, N>>,
    visible: &Array<u32>,
    out: &mut Array<f32>,
    group: u32,
    count: u32,
    tokens: u32,
    columns: u32,
    first_head: u32,
    dim: u32,
    scale: f32,
    #[comptime] largest: bool,
) {
    let mut rows_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let mut tokens_of = SharedMemory::<f32>::new(comptime!((DEPTH * STRIDE) as usize));
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let head = first_head + CUBE_POS_Z;
    let token = CUBE_POS_X * BLOCK;
    let first = CUBE_POS_Y * BLOCK;
    let mut rows = group * count;
    let mut members = 1u32;
    if comptime!(largest) {
        rows = count;
        members = group;
    }
    let mut highest = Array::<f32>::new(comptime!((EACH * EACH) as usize));
    #[unroll]
    for i in 0..comptime!((EACH * EACH) as usize) {
        highest[i] = f32::new(MASKED);
    }
    for member in 0..members {
        let sums = products::<F, N, F, N>(
            q,
            k,
            &mut rows_of,
            &mut tokens_of,
            (head * group + member) * count + first,
            rows - first,
            head * tokens + token,
            columns - token,
            dim,
        );
        #[unroll]
        for i in 0..comptime!((EACH * EACH) as usize) {
            highest[i] = highest[i].max(sums[i] * scale);
        }
    }
    #[unroll]
    for i in 0..EACH {
        let row = first + lane_y + LANES * i;
        if row < rows {
            let seen = visible[(row % count) as usize];
            #[unroll]
            for j in 0..EACH {
                let column = token + lane_x + LANES * j;
                if column < columns {
                    let logit = highest[(EACH * i + j) as usize];
                    out[((CUBE_POS_Z * rows + row) * columns + column) as usize] =
                        select(column < seen, logit, f32::new(MASKED));
                }
            }
        }
    }
}

/// The softmax of each row of `x`, `[rows, columns]`, in place, over the columns from `first` on; the others stay as
/// they are. A cube has a row.
#[cube(launch_unchecked)]
pub(crate) fn softmax_rows(x: &mut Array<f32>, rows: u32, columns: u32, first: u32) {
    let mut parts = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if row < rows {
        let begin = row * columns;
        let mut highest = f32::new(MASKED);
        let mut column = first + UNIT_POS_X;
        while column < columns {
            highest = highest.max(x[(begin + column) as usize]);
            column += THREADS;
        }
        parts[UNIT_POS_X as usize] = highest;
        sync_cube();
        for i in 0..THREADS {
            highest = highest.max(parts[i as usize]);
        }
        sync_cube();
        let mut sum = 0.0f32;
        column = first + UNIT_POS_X;
        while column < columns {
            let weight = (x[(begin + column) as usize] - highest).exp();
            x[(begin + column) as usize] = weight;
            sum += weight;
            column += THREADS;
        }
        parts[UNIT_POS_X as usize] = sum;
        sync_cube();
        let mut total = 0.0f32;
        for i in 0..THREADS {
            total += parts[i as usize];
        }
        column = first + UNIT_POS_X;
        while column < columns {
            x[(begin + column) as usize] /= total;
            column += THREADS;
        }
    }
}

/// The mean of the `best` largest of each span of `span` of the first `columns` numbers of each row of `x`, `[rows,
/// columns]`: `[rows, spans]`. The last span may be shorter.
#[cube(launch_unchecked)]
pub(crate) fn span_means(
    x: &Array<f32>,
    out: &mut Array<f32>,
    rows: u32,
    columns: u32,
    span: u32,
    best: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let spans = columns.div_ceil(span);
    if at < rows * spans {
        let first = at % spans * span;
        let mut length = columns - first;
        if length > span {
            length = span;
        }
        let begin = at / spans * columns + first;
        let mut sum = 0.0f32;
        for i in 0..length {
            let number = x[(begin + i) as usize];
            // Numbers before it in the order of size, of equal ones the earlier.
            let mut before = 0u32;
            for j in 0..length {
                let other = x[(begin + j) as usize];
                if other > number || (other == number && j < i) {
                    before += 1u32;
                }
            }
            if before < best {
                sum += number;
            }
        }
        let mut counted = best;
        if counted > length {
            counted = length;
        }
        out[at as usize] = sum / f32::cast_from(counted);
    }
}
