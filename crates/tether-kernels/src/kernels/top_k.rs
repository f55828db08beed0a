//! Exact selection of the largest by their digits.
//!
//! A score becomes a 32-bit key that orders as scores do, and the k-th largest key is found digit by digit from the top. A row is spread over
//! many cubes, a slice of columns each, because rows are few and long. Cubes of one launch never wait for each other: what all of them need is
//! left in memory by the launch before. No barrier stands under a condition that depends on data, as WebGPU demands. No basic block stores
//! the same value to two atomics: `CubeCL` 0.10 drops the second store on its way to SPIR-V, because it looks like a repeated expression.
//! And every thread of a cube goes around a loop equally often, with a condition inside: lavapipe (Mesa 22.3) loses lanes after a loop that
//! some leave early.
//!
//! 1. `count_digits`: each slice counts the 12 high bits of its keys.
//! 2. `gather_candidates`: from all counts of a row, each slice finds the bin in which the k-th key lies and lists its own keys of that bin.
//! 3. `emit_chosen`: each slice finds the k-th key among the row's listed keys, then writes its own chosen columns to the places that follow
//!    those of the slices before it.

use cubecl::prelude::*;

/// Bins that are looked at first: the 8 high bits.
pub(crate) const COARSE: u32 = 256;
/// Bins within each of those: the next 4 bits.
const FINE: u32 = 16;
/// Bins of the first digit.
const BINS: u32 = COARSE * FINE;
/// Bins of each of the two digits below.
const LOW_BINS: u32 = 1024;
/// Words that `gather_candidates` leaves for each slice.
const CUT: u32 = 5;
/// Candidates that a thread loads at once: one after the other, each would wait for memory, because an atomic stands between them.
const BATCH: u32 = 16;

/// How a selection is spread. All of it is known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    /// Threads of a cube, a power of two and at least [`COARSE`].
    pub threads: u32,
    /// Columns of a thread.
    pub items: u32,
    /// Threads of a plane, or 0 where planes are of no use.
    pub plane: u32,
}

/// Orders as scores do: NaN is 0, -0 and 0 are one.
#[cube]
fn key_of(bits: u32) -> u32 {
    let key = select(bits > 0x8000_0000u32, !bits, bits | 0x8000_0000u32);
    select((bits & 0x7fff_ffffu32) > 0x7f80_0000u32, 0u32, key)
}

/// Keys of the vectors `first`, `first + step`, .. of a row; 0 for those that it does not have.
#[cube]
fn load_keys<N: Size>(
    scores: &Array<Vector<u32, N>>,
    row: u32,
    columns: u32,
    first: u32,
    step: u32,
    #[comptime] items: u32,
) -> Array<u32> {
    let mut keys = Array::<u32>::new(items as usize);
    let width = N::value();
    let vectors = columns / width as u32;
    let start = row * vectors;
    #[unroll]
    for v in 0..comptime!(items as usize / width) {
        let at = first + v as u32 * step;
        let mut bits = Vector::<u32, N>::empty();
        if at < vectors {
            bits = scores[(start + at) as usize];
        }
        #[unroll]
        for lane in 0..width {
            keys[v * width + lane] = select(at < vectors, key_of(bits[lane]), 0u32);
        }
    }
    keys
}

/// Sum of `value` over this thread and those before it. Uniform control flow only.
#[cube]
fn inclusive_sum(value: u32, scratch: &mut SharedMemory<u32>, #[comptime] spread: Spread) -> u32 {
    let mut sum = value;
    if comptime!(spread.plane > 0) {
        sum = plane_inclusive_sum(value);
        let plane = UNIT_POS / spread.plane;
        if UNIT_POS % spread.plane == spread.plane - 1 {
            scratch[plane as usize] = sum;
        }
        sync_cube();
        #[unroll]
        for before in 0..comptime!(spread.threads / spread.plane) {
            sum += select(before < plane, scratch[before as usize], 0u32);
        }
    } else {
        scratch[UNIT_POS as usize] = sum;
        sync_cube();
        // Two halves in turn, so that a step reads what the last one wrote and one barrier a step is enough.
        #[unroll]
        for step in 0..comptime!(spread.threads.ilog2()) {
            let offset = 1u32 << step;
            let from = (step % 2) * spread.threads;
            if UNIT_POS >= offset {
                sum += scratch[(from + UNIT_POS - offset) as usize];
            }
            scratch[(spread.threads - from + UNIT_POS) as usize] = sum;
            sync_cube();
        }
    }
    sync_cube();
    sum
}

/// The bin in which the `need`-th largest lies (`found[0]`) and how many of that bin are needed (`found[1]`).
#[cube]
fn find_bin(
    counts: &SharedMemory<Atomic<u32>>,
    need: u32,
    scratch: &mut SharedMemory<u32>,
    found: &mut SharedMemory<u32>,
    #[comptime] bins: u32,
    #[comptime] spread: Spread,
) {
    let per = comptime!(bins.div_ceil(spread.threads));
    let mut own = Array::<u32>::new(per as usize);
    let mut total = 0u32;
    // Thread 0 has the highest bins.
    #[unroll]
    for i in 0..per {
        let place = UNIT_POS * per + i;
        own[i as usize] = 0u32;
        if place < bins {
            own[i as usize] = counts[(bins - 1 - place) as usize].load();
        }
        total += own[i as usize];
    }
    let mut above = inclusive_sum(total, scratch, spread) - total;
    #[unroll]
    for i in 0..per {
        let count = own[i as usize];
        if above < need && above + count >= need {
            found[0] = bins - 1 - (UNIT_POS * per + i);
            found[1] = need - above;
        }
        above += count;
    }
    sync_cube();
}

#[cube]
fn clear(counts: &SharedMemory<Atomic<u32>>, #[comptime] bins: u32, #[comptime] spread: Spread) {
    for part in 0..comptime!(bins.div_ceil(spread.threads)) {
        let bin = part * spread.threads + UNIT_POS;
        if bin < bins {
            counts[bin as usize].store(0u32);
        }
    }
    sync_cube();
}

/// Where bin `digit` of the first digit is counted: bins of one coarse bin lie `COARSE` apart, so that neighbouring threads add up
/// neighbouring words.
#[cube]
fn place_of(digit: u32) -> u32 {
    (digit % FINE) * COARSE + digit / FINE
}

/// The row of a cube: cube x counts slices, y and z rows.
#[cube]
fn row_of_cube() -> u32 {
    CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y
}

/// Where `coarse` begins in the working memory, in words; `fine` is first. One buffer for all: each that a launch names is work for the host.
#[cube]
fn coarse_at(rows: u32) -> u32 {
    rows * CUBE_COUNT_X * BINS
}

/// Where `cuts` begin.
#[cube]
fn cuts_at(rows: u32) -> u32 {
    rows * CUBE_COUNT_X * comptime!(BINS + COARSE)
}

/// Where `candidates` begin.
#[cube]
fn candidates_at(rows: u32) -> u32 {
    rows * CUBE_COUNT_X * comptime!(BINS + COARSE + CUT)
}

/// Words of the working memory of `parts` slices of all rows, which have so many columns together.
pub(crate) fn work_len(parts: usize, columns: usize) -> usize {
    parts * (BINS + COARSE + CUT) as usize + columns
}

/// `fine[row, slice, place_of(digit)]` and `coarse[row, slice, digit / FINE]`: how many keys of the slice have which 12 high bits.
#[cube(launch_unchecked)]
pub(crate) fn count_digits<N: Size>(
    scores: &Array<Vector<u32, N>>,
    work: &mut Array<u32>,
    rows: u32,
    columns: u32,
    #[comptime] spread: Spread,
) {
    let counts = SharedMemory::<Atomic<u32>>::new(comptime!(BINS as usize));
    let row = row_of_cube();
    if row >= rows {
        terminate!();
    }
    let width = N::value() as u32;
    let slice = CUBE_POS_X * comptime!(spread.threads * spread.items);
    let first = slice / width + UNIT_POS;
    let keys = load_keys::<N>(scores, row, columns, first, spread.threads, spread.items);
    clear(&counts, BINS, spread);
    #[unroll]
    for i in 0..spread.items {
        if (first + i / width * spread.threads) * width < columns {
            counts[place_of(keys[i as usize] >> 20u32) as usize].fetch_add(1u32);
        }
    }
    sync_cube();
    let part = row * CUBE_COUNT_X + CUBE_POS_X;
    for i in 0..comptime!(BINS / spread.threads) {
        let place = i * spread.threads + UNIT_POS;
        work[(part * BINS + place) as usize] = counts[place as usize].load();
    }
    if UNIT_POS < COARSE {
        let mut sum = 0u32;
        #[unroll]
        for f in 0..FINE {
            sum += counts[(f * COARSE + UNIT_POS) as usize].load();
        }
        work[(coarse_at(rows) + part * COARSE + UNIT_POS) as usize] = sum;
    }
}

/// `cuts[row, slice]`: the bin of the k-th key, how many of that bin are needed, how many the row has in it, how many of those lie before
/// this slice, and how many keys above the bin lie before this slice. `candidates[row]`: the keys in the bin, slice after slice.
#[cube(launch_unchecked)]
pub(crate) fn gather_candidates<N: Size>(
    scores: &Array<Vector<u32, N>>,
    work: &mut Array<u32>,
    rows: u32,
    columns: u32,
    k: u32,
    #[comptime] spread: Spread,
) {
    let totals = SharedMemory::<Atomic<u32>>::new(comptime!(COARSE as usize));
    // Of the whole row, and of the slices before this one.
    let fine_totals = SharedMemory::<Atomic<u32>>::new(comptime!(2 * FINE as usize));
    // Keys in higher coarse bins before this slice; candidates listed so far.
    let tally = SharedMemory::<Atomic<u32>>::new(2usize);
    let mut scratch = SharedMemory::<u32>::new(comptime!(2 * spread.threads as usize));
    let mut found = SharedMemory::<u32>::new(2usize);
    let row = row_of_cube();
    if row >= rows {
        terminate!();
    }
    let width = N::value() as u32;
    let slices = CUBE_COUNT_X;
    let slice = CUBE_POS_X;
    let first = slice * comptime!(spread.threads * spread.items) / width + UNIT_POS;
    let keys = load_keys::<N>(scores, row, columns, first, spread.threads, spread.items);

    if UNIT_POS < COARSE {
        totals[UNIT_POS as usize].store(0u32);
    }
    if UNIT_POS < 2 * FINE {
        fine_totals[UNIT_POS as usize].store(0u32);
    }
    if UNIT_POS < 2 {
        tally[UNIT_POS as usize].store(0u32);
    }
    sync_cube();
    let bin = UNIT_POS % COARSE;
    let mut total = 0u32;
    let mut before = 0u32;
    let stride = comptime!(spread.threads / COARSE);
    for part in 0..slices.div_ceil(stride) {
        let s = part * stride + UNIT_POS / COARSE;
        if s < slices {
            let count = work[(coarse_at(rows) + (row * slices + s) * COARSE + bin) as usize];
            total += count;
            before += select(s < slice, count, 0u32);
        }
    }
    totals[bin as usize].fetch_add(total);
    sync_cube();
    find_bin(&totals, k, &mut scratch, &mut found, COARSE, spread);
    let coarse_bin = found[0];
    let need = found[1];
    if bin > coarse_bin && before > 0 {
        tally[0].fetch_add(before);
    }

    for part in 0..(FINE * slices).div_ceil(spread.threads) {
        let i = part * spread.threads + UNIT_POS;
        let f = i % FINE;
        let s = i / FINE;
        if s < slices {
            let count = work[((row * slices + s) * BINS + f * COARSE + coarse_bin) as usize];
            fine_totals[f as usize].fetch_add(count);
            if s < slice {
                fine_totals[(FINE + f) as usize].fetch_add(count);
            }
        }
    }
    sync_cube();
    // Every thread finds the same fine bin.
    let mut above = 0u32;
    let mut above_before = tally[0].load();
    let mut fine_bin = 0u32;
    let mut needed = 0u32;
    let mut has = 0u32;
    let mut has_before = 0u32;
    #[unroll]
    for i in 0..FINE {
        let f = FINE - 1 - i;
        let count = fine_totals[f as usize].load();
        let count_before = fine_totals[(FINE + f) as usize].load();
        if above < need {
            if above + count >= need {
                fine_bin = f;
                needed = need - above;
                has = count;
                has_before = count_before;
            } else {
                above_before += count_before;
            }
        }
        above += count;
    }
    let digit = coarse_bin * FINE + fine_bin;
    if UNIT_POS == 0 {
        let at = (cuts_at(rows) + (row * slices + slice) * CUT) as usize;
        work[at] = digit;
        work[at + 1] = needed;
        work[at + 2] = has;
        work[at + 3] = has_before;
        work[at + 4] = above_before;
    }
    let list = candidates_at(rows) + row * columns + has_before;
    #[unroll]
    for i in 0..spread.items {
        let key = keys[i as usize];
        if (first + i / width * spread.threads) * width < columns && key >> 20u32 == digit {
            let place = tally[1].fetch_add(1u32);
            work[(list + place) as usize] = key;
        }
    }
}

/// Writes the columns of this thread's keys that are above `threshold`, and of those equal to it the first `ties` of the row. `above_before`
/// and `equal_before` count such keys before this cube's first column.
#[cube]
fn write_chosen(
    keys: &Array<u32>,
    out: &mut Array<u32>,
    scratch: &mut SharedMemory<u32>,
    first_column: u32,
    columns: u32,
    start: u32,
    threshold: u32,
    ties: u32,
    above_before: u32,
    equal_before: u32,
    #[comptime] spread: Spread,
) {
    let mut own = 0u32;
    #[unroll]
    for i in 0..spread.items {
        let key = keys[i as usize];
        if first_column + i < columns {
            // Both counts in one word: a slice has fewer than 2^16 columns.
            own += select(key > threshold, 1u32, 0u32) + select(key == threshold, 0x1_0000u32, 0u32);
        }
    }
    let before = inclusive_sum(own, scratch, spread) - own;
    let mut above = above_before + (before & 0xffffu32);
    let mut equal = equal_before + (before >> 16u32);
    #[unroll]
    for i in 0..spread.items {
        let key = keys[i as usize];
        if first_column + i < columns && key >= threshold {
            let tie = key == threshold;
            if !tie || equal < ties {
                out[(start + above + equal.min(ties)) as usize] = first_column + i;
            }
            equal += select(tie, 1u32, 0u32);
            above += select(tie, 0u32, 1u32);
        }
    }
}

/// The candidates `first`, `first + threads`, .. of a list that begins at `list` and has `len`.
#[cube]
fn load_batch(work: &Array<u32>, list: u32, first: u32, len: u32, #[comptime] spread: Spread) -> Array<u32> {
    let mut keys = Array::<u32>::new(BATCH as usize);
    #[unroll]
    for i in 0..BATCH {
        let at = first + i * spread.threads;
        keys[i as usize] = 0u32;
        if at < len {
            keys[i as usize] = work[(list + at) as usize];
        }
    }
    keys
}

/// Counts candidates by their `LOW_BINS` values from bit `low` on: those whose bits above that are `prefix`.
#[cube]
fn count_candidates(
    counts: &SharedMemory<Atomic<u32>>,
    work: &Array<u32>,
    list: u32,
    len: u32,
    prefix: u32,
    #[comptime] low: u32,
    #[comptime] spread: Spread,
) {
    for batch in 0..len.div_ceil(comptime!(spread.threads * BATCH)) {
        let first = batch * comptime!(spread.threads * BATCH) + UNIT_POS;
        let keys = load_batch(work, list, first, len, spread);
        #[unroll]
        for i in 0..BATCH {
            let key = keys[i as usize];
            if first + i * spread.threads < len && key >> comptime!(low + LOW_BINS.ilog2()) == prefix {
                counts[((key >> low) % LOW_BINS) as usize].fetch_add(1u32);
            }
        }
    }
}

/// `out[row]`: the chosen columns, ascending.
#[cube(launch_unchecked)]
pub(crate) fn emit_chosen<N: Size>(
    scores: &Array<Vector<u32, N>>,
    work: &Array<u32>,
    out: &mut Array<u32>,
    rows: u32,
    columns: u32,
    k: u32,
    #[comptime] spread: Spread,
) {
    let counts = SharedMemory::<Atomic<u32>>::new(comptime!(LOW_BINS as usize));
    // Candidates before this slice that are above the threshold, and those equal to it.
    let tally = SharedMemory::<Atomic<u32>>::new(2usize);
    let mut scratch = SharedMemory::<u32>::new(comptime!(2 * spread.threads as usize));
    let mut found = SharedMemory::<u32>::new(2usize);
    let row = row_of_cube();
    if row >= rows {
        terminate!();
    }
    let width = N::value() as u32;
    let first_column = (CUBE_POS_X * spread.threads + UNIT_POS) * spread.items;
    let keys = load_keys::<N>(scores, row, columns, first_column / width, 1u32, spread.items);
    let cut = (cuts_at(rows) + (row * CUBE_COUNT_X + CUBE_POS_X) * CUT) as usize;
    let digit = work[cut];
    let needed = work[cut + 1];
    let has = work[cut + 2];
    let has_before = work[cut + 3];
    let above_before = work[cut + 4];
    let list = candidates_at(rows) + row * columns;

    if UNIT_POS < 2 {
        tally[UNIT_POS as usize].store(0u32);
    }
    clear(&counts, LOW_BINS, spread);
    count_candidates(&counts, work, list, has, digit, LOW_BINS.ilog2(), spread);
    sync_cube();
    find_bin(&counts, needed, &mut scratch, &mut found, LOW_BINS, spread);
    let middle = digit * LOW_BINS + found[0];
    let needed = found[1];
    sync_cube();
    clear(&counts, LOW_BINS, spread);
    count_candidates(&counts, work, list, has, middle, 0u32, spread);
    sync_cube();
    find_bin(&counts, needed, &mut scratch, &mut found, LOW_BINS, spread);
    let threshold = middle * LOW_BINS + found[0];
    let ties = found[1];

    let mut above = 0u32;
    let mut equal = 0u32;
    for batch in 0..has_before.div_ceil(comptime!(spread.threads * BATCH)) {
        let first = batch * comptime!(spread.threads * BATCH) + UNIT_POS;
        let keys = load_batch(work, list, first, has_before, spread);
        #[unroll]
        for i in 0..BATCH {
            let there = first + i * spread.threads < has_before;
            above += select(there && keys[i as usize] > threshold, 1u32, 0u32);
            equal += select(there && keys[i as usize] == threshold, 1u32, 0u32);
        }
    }
    if above > 0 {
        tally[0].fetch_add(above);
    }
    if equal > 0 {
        tally[1].fetch_add(equal);
    }
    sync_cube();
    let above = above_before + tally[0].load();
    let equal = tally[1].load();
    write_chosen(
        &keys,
        out,
        &mut scratch,
        first_column,
        columns,
        row * k,
        threshold,
        ties,
        above,
        equal,
        spread,
    );
}

/// A short row in one cube, its keys in registers: `out[row]`, the chosen columns, ascending. Cube x and y count rows.
#[cube(launch_unchecked)]
pub(crate) fn select_row<N: Size>(
    scores: &Array<Vector<u32, N>>,
    out: &mut Array<u32>,
    rows: u32,
    columns: u32,
    k: u32,
    #[comptime] spread: Spread,
) {
    let counts = SharedMemory::<Atomic<u32>>::new(comptime!(2 * LOW_BINS as usize));
    let mut scratch = SharedMemory::<u32>::new(comptime!(2 * spread.threads as usize));
    let mut found = SharedMemory::<u32>::new(2usize);
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if row >= rows {
        terminate!();
    }
    let width = N::value() as u32;
    let first_column = UNIT_POS * spread.items;
    let keys = load_keys::<N>(scores, row, columns, first_column / width, 1u32, spread.items);
    let mut prefix = 0u32;
    let mut need = k;
    // 11, 11 and 10 bits.
    #[unroll]
    for digit in 0..3u32 {
        let low = select(digit == 0, 21u32, select(digit == 1, 10u32, 0u32));
        let bits = select(digit == 2, 10u32, 11u32);
        clear(&counts, 2 * LOW_BINS, spread);
        #[unroll]
        for i in 0..spread.items {
            let key = keys[i as usize];
            // Two shifts: one by 32 bits is undefined.
            if first_column + i < columns && (key >> low) >> bits == prefix {
                counts[((key >> low) & ((1u32 << bits) - 1)) as usize].fetch_add(1u32);
            }
        }
        sync_cube();
        find_bin(&counts, need, &mut scratch, &mut found, 2 * LOW_BINS, spread);
        prefix = (prefix << bits) + found[0];
        need = found[1];
        sync_cube();
    }
    write_chosen(&keys, out, &mut scratch, first_column, columns, row * k, prefix, need, 0u32, 0u32, spread);
}
