//! Bounds of pages, and a choice among pages by them.

use cubecl::prelude::*;

use super::runs::sum_of_run;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;
/// Threads that score a run of pages together.
pub(crate) const LANES: u32 = 16;

/// The lowest and the highest number of each channel of pages `pages` of `keys`, `[pages, size, dim]`, to rows `[2, dim]` of `bounds`.
#[cube(launch_unchecked)]
pub(crate) fn write_bounds<F: Float>(
    keys: &Array<F>,
    pages: &Array<u32>,
    bounds: &mut Array<F>,
    count: u32,
    size: u32,
    dim: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < count * dim {
        let page = pages[(at / dim) as usize];
        let channel = at % dim;
        let mut low = f32::cast_from(keys[(page * size * dim + channel) as usize]);
        let mut high = low;
        let mut row = 1u32;
        while row < size {
            let x = f32::cast_from(keys[((page * size + row) * dim + channel) as usize]);
            low = low.min(x);
            high = high.max(x);
            row += 1u32;
        }
        bounds[(page * 2 * dim + channel) as usize] = F::cast_from(low);
        bounds[((page * 2 + 1) * dim + channel) as usize] = F::cast_from(high);
    }
}

/// The largest product that a key within the bounds of each run of `run` pages can have with each query of its key head, summed over them: `[heads, candidates]`. Run 0 begins
/// with page `first` of its head's list. `q` is `[heads, group, dim]`. Cube z is the head.
#[cube(launch_unchecked)]
pub(crate) fn bound_scores<F: Float>(
    q: &Array<F>,
    bounds: &Array<F>,
    starts: &Array<u32>,
    pages: &Array<u32>,
    out: &mut Array<f32>,
    candidates: u32,
    first: u32,
    run: u32,
    group: u32,
    dim: u32,
    #[comptime] plane: u32,
) {
    let mut scratch = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let head = CUBE_POS_Z;
    let candidate =
        (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * comptime!(THREADS / LANES) + UNIT_POS_X / LANES;
    let lane = UNIT_POS_X % LANES;
    let mut part = 0.0f32;
    if candidate < candidates {
        let entry = starts[head as usize] + first + candidate * run;
        let mut channel = lane;
        while channel < dim {
            let mut low = f32::new(0.0);
            let mut high = f32::new(0.0);
            for i in 0..run {
                let at = pages[(entry + i) as usize] * 2 * dim + channel;
                let of_low = f32::cast_from(bounds[at as usize]);
                let of_high = f32::cast_from(bounds[(at + dim) as usize]);
                if i == 0 {
                    low = of_low;
                    high = of_high;
                } else {
                    low = low.min(of_low);
                    high = high.max(of_high);
                }
            }
            for i in 0..group {
                let x = f32::cast_from(q[((head * group + i) * dim + channel) as usize]);
                part += (x * low).max(x * high);
            }
            channel += LANES;
        }
    }
    let sum = sum_of_run(part, &mut scratch, LANES, plane);
    if candidate < candidates && lane == 0 {
        out[(head * candidates + candidate) as usize] = sum;
    }
}

/// The pages that each head reads, `[heads, read]`: those of its list before `first`, the runs that it chose, `chosen` `[heads, count]`, and those from `last` on.
#[cube(launch_unchecked)]
pub(crate) fn chosen_pages(
    starts: &Array<u32>,
    pages: &Array<u32>,
    chosen: &Array<u32>,
    out: &mut Array<u32>,
    heads: u32,
    read: u32,
    first: u32,
    last: u32,
    run: u32,
    count: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * read {
        let head = at / read;
        let place = at % read;
        let end = first + count * run;
        let mut page = place;
        if place >= first && place < end {
            let number = (place - first) / run;
            page = first + chosen[(head * count + number) as usize] * run + (place - first) % run;
        }
        if place >= end {
            page = last + place - end;
        }
        out[at as usize] = pages[(starts[head as usize] + page) as usize];
    }
}
