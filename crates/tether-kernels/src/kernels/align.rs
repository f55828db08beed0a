//! Statistics alignment (TAME): targets from moments, the edit in place, and what it does to the moments, in one pass.

use cubecl::prelude::*;

use super::column::load_batch;
use super::copy::cube_unit;
use super::words::Words;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 256;
/// Tokens that a thread reads before it edits the first of them.
const AT_ONCE: u32 = 4;

/// Edits the units of jobs, keys and values.
///
/// `words` holds the first word of the unit's job and the unit's row of moments, for each of `units`; and for each job the begin and end of two
/// lists of rows, its own and the trusted ones. Row `r` is one of the two of slot `r / 2`: moments are read from the rows that are
/// named and written to the other ones, so that every cube sees all moments as they were before.
///
/// Cubes of x count parts of a unit: blocks of `columns` vectors side by side (`blocks_k` of the keys, then those of the values), and `parts`
/// ranges of tokens each.
#[cube(launch_unchecked)]
pub(crate) fn align_units<F: Float, N: Size>(
    keys: &mut Array<Vector<F, N>>,
    values: &mut Array<Vector<F, N>>,
    moments: &mut Array<f32>,
    words: &Words,
    units: u32,
    tokens: u32,
    width_k: u32,
    width_v: u32,
    blocks_k: u32,
    parts: u32,
    tau: f32,
    floor: f32,
    #[comptime] columns: u32,
) {
    let size = N::value();
    let size = comptime!(size as u32);
    let channels = comptime!(columns * size);
    let lanes = comptime!(THREADS / columns);
    let groups = comptime!(THREADS / channels);
    let words = words.staged();
    // Mean, scale and shift of each of the cube's channels.
    let mut edits = SharedMemory::<f32>::new(comptime!(3 * channels as usize));
    let mut pools = SharedMemory::<f32>::new(comptime!(6 * THREADS as usize));

    let unit = cube_unit();
    let inside = unit < units;
    let of_unit = 2 * select(inside, unit, 0);
    let job = words[of_unit as usize];
    let row = words[(of_unit + 1) as usize];
    let part = CUBE_POS_X % parts;
    let block = CUBE_POS_X / parts;
    let of_keys = block < blocks_k;
    let block = select(of_keys, block, block - blocks_k);
    let width = select(of_keys, width_k, width_v);
    let row_len = 2 * size * (width_k + width_v);
    let side = select(of_keys, 0, 2 * size * width_k);

    // The first tokens come while the statistics are worked out.
    let column = block * columns + UNIT_POS % columns;
    let per_part = tokens.div_ceil(parts);
    let begin = part * per_part;
    let mut end = begin + per_part;
    if end > tokens {
        end = tokens;
    }
    let end = select(inside && column < width, end, 0);
    let token = begin + UNIT_POS / columns;
    let first = (row / 2 * tokens + token) * width + column;
    let mut held = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    if of_keys {
        load_batch(keys, &mut held, first, lanes * width, token, lanes, end, AT_ONCE);
    } else {
        load_batch(values, &mut held, first, lanes * width, token, lanes, end, AT_ONCE);
    }

    // Several threads a channel pool rows, then one merges them.
    let channel = UNIT_POS % channels;
    let group = UNIT_POS / channels;
    let at = block * channels + channel;
    let exists = inside && at < width * size;
    let at = side + select(exists, at, 0);
    let deviations = width * size;
    let place = row * row_len + at;
    let before = moments[place as usize];
    let spread = moments[(place + deviations) as usize];
    let (own_first, own_count) =
        pool(moments, &words, job, &mut pools, 0u32, group, groups, at, deviations, row_len);
    let (target_first, target_count) = pool(
        moments,
        &words,
        job + 2,
        &mut pools,
        comptime!(3 * THREADS),
        group,
        groups,
        at,
        deviations,
        row_len,
    );
    sync_cube();
    if group == 0 {
        let tokens = f32::cast_from(tokens);
        let (mean, sd) = merged(&pools, 0u32, channels, groups, own_first, own_count, tokens, floor);
        let (target_mean, target_sd) = merged(
            &pools,
            comptime!(3 * THREADS),
            channels,
            groups,
            target_first,
            target_count,
            tokens,
            floor,
        );
        let scale = target_sd / sd;
        edits[channel as usize] = mean;
        edits[(channels + channel) as usize] = tau * scale;
        edits[(2 * channels + channel) as usize] = tau * target_mean;
        if exists && part == 0 {
            let to = (row ^ 1) * row_len + at;
            moments[to as usize] = (1.0 - tau) * before + (before - mean) * (tau * scale) + tau * target_mean;
            let scale = (1.0 - tau) + tau * scale;
            moments[(to + deviations) as usize] = scale * scale * spread;
        }
    }
    sync_cube();

    let mut mean = Vector::<f32, N>::new(0.0f32);
    let mut scale = Vector::<f32, N>::new(0.0f32);
    let mut shift = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for i in 0..size {
        let channel = UNIT_POS % columns * size + i;
        mean[i as usize] = edits[channel as usize];
        scale[i as usize] = edits[(channels + channel) as usize];
        shift[i as usize] = edits[(2 * channels + channel) as usize];
    }
    if of_keys {
        edit(keys, &mut held, first, width, token, end, lanes, mean, scale, shift, 1.0 - tau);
    } else {
        edit(values, &mut held, first, width, token, end, lanes, mean, scale, shift, 1.0 - tau);
    }
}

/// Sums over the rows `group`, `group + groups`, .. of the list at `list`, into `pools` from `from` on: the distance of a channel's mean from the
/// first row's, its square, and the squared deviations in the row. Distances from a member do not cancel: they are no larger than
/// the spread of the means. Returns the first row's mean and the number of rows.
#[cube]
fn pool(
    moments: &Array<f32>,
    words: &Slice<u32>,
    list: u32,
    pools: &mut SharedMemory<f32>,
    from: u32,
    group: u32,
    #[comptime] groups: u32,
    at: u32,
    deviations: u32,
    row_len: u32,
) -> (f32, f32) {
    let begin = words[list as usize];
    let end = words[(list + 1) as usize];
    let first = words[begin as usize];
    let origin = moments[(first * row_len + at) as usize];
    let mut distance = 0.0f32;
    let mut square = 0.0f32;
    let mut within = 0.0f32;
    let mut i = begin + group;
    while i < end {
        let row = words[i as usize];
        let place = row * row_len + at;
        let d = moments[place as usize] - origin;
        distance += d;
        square += d * d;
        within += moments[(place + deviations) as usize];
        i += groups;
    }
    let place = from + UNIT_POS;
    pools[place as usize] = distance;
    pools[(place + THREADS) as usize] = square;
    pools[(place + 2 * THREADS) as usize] = within;
    (origin, f32::cast_from(end - begin))
}

/// Mean and population deviation, not below `floor`, of the cube's channel `UNIT_POS` over `count` rows of `tokens` tokens.
#[cube]
fn merged(
    pools: &SharedMemory<f32>,
    from: u32,
    #[comptime] channels: u32,
    #[comptime] groups: u32,
    first: f32,
    count: f32,
    tokens: f32,
    floor: f32,
) -> (f32, f32) {
    let mut distance = 0.0f32;
    let mut square = 0.0f32;
    let mut within = 0.0f32;
    #[unroll]
    for group in 0..groups {
        let at = from + group * channels + UNIT_POS;
        distance += pools[at as usize];
        square += pools[(at + THREADS) as usize];
        within += pools[(at + 2 * THREADS) as usize];
    }
    let distance = distance / count;
    let between = (square / count - distance * distance).max(0.0);
    (first + distance, (within / (count * tokens) + between).sqrt().max(floor))
}

/// `x' = keep x + (x - mean) scale + shift` for the tokens `token`, `token + lanes`, .. below `end` of a column that begins at `first`; the
/// first batch of them is `held`. Centred before it is scaled: `a x + b` cancels badly where the deviation is at its floor.
#[cube]
fn edit<F: Float, N: Size>(
    store: &mut Array<Vector<F, N>>,
    held: &mut Array<Vector<F, N>>,
    first: u32,
    width: u32,
    token: u32,
    end: u32,
    #[comptime] lanes: u32,
    mean: Vector<f32, N>,
    scale: Vector<f32, N>,
    shift: Vector<f32, N>,
    keep: f32,
) {
    let keep = Vector::<f32, N>::new(keep);
    let step = lanes * width;
    let mut token = token;
    let mut at = first;
    while token < end {
        #[unroll]
        for i in 0..AT_ONCE {
            if token + i * lanes < end {
                let x = Vector::<f32, N>::cast_from(held[i as usize]);
                store[(at + i * step) as usize] = Vector::cast_from(keep * x + (x - mean) * scale + shift);
            }
        }
        token += comptime!(AT_ONCE * lanes);
        at += AT_ONCE * step;
        load_batch(store, held, at, step, token, lanes, end, AT_ONCE);
    }
}
