//! Arithmetic over scores: tables of a row for each head and a column for each token.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 256;

/// What [`map_scores`] makes of a number of `x` and one of `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Map {
    /// `x * by + plus`.
    Linear,
    /// `x + y`.
    Sum,
    /// `x * y`.
    Product,
}

/// Number by number. `y` has a row of `columns` numbers for `times` rows of `x`.
#[cube(launch_unchecked)]
pub(crate) fn map_scores(
    x: &Array<f32>,
    y: &Array<f32>,
    out: &mut Array<f32>,
    count: u32,
    columns: u32,
    times: u32,
    by: f32,
    plus: f32,
    #[comptime] map: Map,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < count {
        let number = x[at as usize];
        let mut result = number * by + plus;
        if comptime!(map != Map::Linear) {
            let other = y[(at / columns / times * columns + at % columns) as usize];
            result = if comptime!(map == Map::Sum) { number + other } else { number * other };
        }
        out[at as usize] = result;
    }
}

/// Which columns [`place_columns`] takes from where.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub(crate) struct Placement {
    /// Columns of what is read.
    pub(crate) from: u32,
    /// Columns of what is written.
    pub(crate) columns: u32,
    /// The first of those that are read, and how many are.
    pub(crate) first: u32,
    pub(crate) body: u32,
    /// The first column that is read, and how often each is.
    pub(crate) offset: u32,
    pub(crate) times: u32,
}

/// Columns of `x`, `[heads, from]`, times `by`, among others that have one score: `[heads, columns]`. That score is
/// `end`, or with `above` 1 more than the highest of `highest`, `[heads]`.
#[cube(launch_unchecked)]
pub(crate) fn place_columns(
    x: &Array<f32>,
    highest: &Array<f32>,
    out: &mut Array<f32>,
    placement: &Placement,
    heads: u32,
    by: f32,
    end: f32,
    #[comptime] above: bool,
    #[comptime] reversed: bool,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * placement.columns {
        let column = at % placement.columns;
        if column >= placement.first && column < placement.first + placement.body {
            let mut place = column - placement.first;
            if comptime!(reversed) {
                place = placement.body - 1 - place;
            }
            let from = at / placement.columns * placement.from + placement.offset + place / placement.times;
            out[at as usize] = x[from as usize] * by;
        } else if comptime!(above) {
            let mut top = highest[0];
            for head in 1..heads {
                top = top.max(highest[head as usize]);
            }
            out[at as usize] = top + 1.0f32;
        } else {
            out[at as usize] = end;
        }
    }
}

/// The highest number of each row of `x`, `[rows, columns]`. A cube has a row.
#[cube(launch_unchecked)]
pub(crate) fn row_maxima(x: &Array<f32>, out: &mut Array<f32>, columns: u32) {
    let mut parts = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let begin = CUBE_POS_X * columns;
    let mut highest = x[begin as usize];
    let mut column = UNIT_POS_X;
    while column < columns {
        highest = highest.max(x[(begin + column) as usize]);
        column += THREADS;
    }
    parts[UNIT_POS_X as usize] = highest;
    sync_cube();
    if UNIT_POS_X == 0 {
        for i in 0..THREADS {
            highest = highest.max(parts[i as usize]);
        }
        out[CUBE_POS_X as usize] = highest;
    }
}

/// Each number of `x`, `[rows, columns]`, over the highest of its row, the `first` and the `last` columns left out,
/// or over `least` where that is less. A cube has a row.
#[cube(launch_unchecked)]
pub(crate) fn per_highest(
    x: &Array<f32>,
    out: &mut Array<f32>,
    columns: u32,
    first: u32,
    last: u32,
    least: f32,
) {
    let mut parts = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let begin = CUBE_POS_X * columns;
    let mut highest = least;
    let mut column = first + UNIT_POS_X;
    while column < columns - last {
        highest = highest.max(x[(begin + column) as usize]);
        column += THREADS;
    }
    parts[UNIT_POS_X as usize] = highest;
    sync_cube();
    for i in 0..THREADS {
        highest = highest.max(parts[i as usize]);
    }
    column = UNIT_POS_X;
    while column < columns {
        out[(begin + column) as usize] = x[(begin + column) as usize] / highest;
        column += THREADS;
    }
}

/// The rank of each number of each row of `x` in its block of `size` columns, as a share of the block.
#[cube(launch_unchecked)]
pub(crate) fn block_ranks(x: &Array<f32>, out: &mut Array<f32>, count: u32, columns: u32, size: u32) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < count {
        let column = at % columns;
        let first = column / size * size;
        let mut length = columns - first;
        if length > size {
            length = size;
        }
        let begin = at - column + first;
        let number = x[at as usize];
        let mut rank = u32::new(0);
        for i in 0..length {
            let other = x[(begin + i) as usize];
            if other < number || (other == number && begin + i < at) {
                rank += 1u32;
            }
        }
        out[at as usize] = f32::cast_from(rank) / f32::cast_from(length);
    }
}

/// `x`, `[heads, columns]`, but `score` in the `first` and the `last` columns and in those of `chosen`, `[heads, k]`,
/// which count from `first` on and ascend.
#[cube(launch_unchecked)]
pub(crate) fn raise_columns(
    x: &Array<f32>,
    chosen: &Array<u32>,
    out: &mut Array<f32>,
    heads: u32,
    columns: u32,
    first: u32,
    last: u32,
    k: u32,
    score: f32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * columns {
        let column = at % columns;
        let mut number = x[at as usize];
        if column < first || column >= columns - last {
            number = score;
        } else {
            let begin = at / columns * k;
            // The first place that does not lie before this column.
            let mut low = 0u32;
            let mut high = k;
            while low < high {
                let middle = (low + high) / 2;
                if chosen[(begin + middle) as usize] < column - first {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            let there = low < k;
            let found = chosen[select(there, begin + low, 0u32) as usize];
            if there && found == column - first {
                number = score;
            }
        }
        out[at as usize] = number;
    }
}

/// Means of `x`, `[heads, columns]`, over all heads and over spans of `size` columns from `first` on, the last of
/// which ends at `end`.
#[cube(launch_unchecked)]
pub(crate) fn span_averages(
    x: &Array<f32>,
    out: &mut Array<f32>,
    heads: u32,
    columns: u32,
    first: u32,
    size: u32,
    end: u32,
    spans: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < spans {
        let begin = first + at * size;
        let mut length = end - begin;
        if length > size {
            length = size;
        }
        let mut sum = 0.0f32;
        for head in 0..heads {
            for i in 0..length {
                sum += x[(head * columns + begin + i) as usize];
            }
        }
        out[at as usize] = sum / f32::cast_from(heads * length);
    }
}
