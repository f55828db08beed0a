//! Partial results of one row, merged.

use cubecl::prelude::*;

/// Threads of a cube of [`combine_parts`]; no cube that merges has fewer threads than there are parts.
pub(crate) const COMBINE_THREADS: u32 = 128;

/// Most parts of a row.
pub(crate) const MOST_PARTS: usize = 128;

/// What a row's parts come to, beside the merged sums.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Merged {
    /// The row's log-sum-exp.
    pub(crate) log_sum: f32,
    /// Not all parts are empty.
    pub(crate) any: bool,
}

/// `sums = sum over parts of e^(lse[part] - max) part / sum of the same weights` of the `count` parts from number `first` on of `parts` `[.., dim]` and `part_lse` `[..]`; zeros for
/// a row that is not `there`, and for parts that are all empty. All `threads` threads of the cube take part, and see the result.
#[cube]
pub(crate) fn merge_parts(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    sums: &mut SharedMemory<f32>,
    first: u32,
    there: bool,
    count: u32,
    #[comptime] dim: u32,
    #[comptime] threads: u32,
) -> Merged {
    let mut all = SharedMemory::<f32>::new(comptime!(threads as usize));
    let mut tree = SharedMemory::<f32>::new(comptime!(threads as usize));
    // A part a thread.
    let mut own = f32::new(-1e30);
    if UNIT_POS_X < count && there {
        own = part_lse[(first + UNIT_POS_X) as usize];
    }
    tree[UNIT_POS_X as usize] = own;
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(threads.ilog2()) {
        let distance = comptime!(threads >> (stage + 1));
        if UNIT_POS_X < distance {
            let other = tree[(UNIT_POS_X + distance) as usize];
            tree[UNIT_POS_X as usize] = other.max(tree[UNIT_POS_X as usize]);
        }
        sync_cube();
    }
    let highest = tree[0];
    sync_cube();
    // An empty part has a finite stand-in for no weight, which must not become one.
    let weight = select(own > f32::new(-1e29), (own - highest).exp(), 0.0f32);
    all[UNIT_POS_X as usize] = weight;
    tree[UNIT_POS_X as usize] = weight;
    sync_cube();
    #[unroll]
    for stage in 0..comptime!(threads.ilog2()) {
        let distance = comptime!(threads >> (stage + 1));
        if UNIT_POS_X < distance {
            tree[UNIT_POS_X as usize] += tree[(UNIT_POS_X + distance) as usize];
        }
        sync_cube();
    }
    let weights = tree[0];
    // Several threads a channel, each with parts of its own.
    let slices = comptime!((threads / dim).max(1));
    let mut partial = SharedMemory::<f32>::new(comptime!((slices * dim) as usize));
    let mut at = UNIT_POS_X;
    while at < slices * dim {
        let from = first * dim + at % dim;
        let mut sum = 0.0f32;
        let mut part = at / dim;
        // Four loads under way at a time.
        while part + 3 * slices < count && there {
            let mut values = Array::<f32>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                values[i] = parts[(from + (part + i as u32 * slices) * dim) as usize];
            }
            #[unroll]
            for i in 0..4usize {
                sum += all[(part + i as u32 * slices) as usize] * values[i];
            }
            part += 4 * slices;
        }
        while part < count && there {
            sum += all[part as usize] * parts[(from + part * dim) as usize];
            part += slices;
        }
        partial[at as usize] = sum;
        at += threads;
    }
    sync_cube();
    let any = weights > 0.0f32;
    let mut channel = UNIT_POS_X;
    while channel < dim {
        let mut sum = 0.0f32;
        #[unroll]
        for slice in 0..slices {
            sum += partial[(comptime!(slice * dim) + channel) as usize];
        }
        sums[channel as usize] = select(any, sum / weights, 0.0f32);
        channel += threads;
    }
    sync_cube();
    Merged { log_sum: select(any, highest + weights.ln(), f32::new(-1e30)), any }
}

/// Merges the `count` parts of each row; see [`merge_parts`]. One row a cube. With sinks, `per_head` holds those of the query heads from `first_sink` on.
#[cube]
fn combine<F: Float>(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    per_head: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    rows: u32,
    count: u32,
    first_sink: u32,
    #[comptime] dim: u32,
    #[comptime] sinks: bool,
) {
    let mut sums = SharedMemory::<f32>::new(comptime!(dim as usize));
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let there = row < rows;
    let merged = merge_parts(parts, part_lse, &mut sums, row * count, there, count, dim, COMBINE_THREADS);
    if there {
        let mut channel = UNIT_POS_X;
        let mut log_sum = merged.log_sum;
        let mut keep = f32::new(1.0);
        if comptime!(sinks) {
            // A sink is a token that has no value.
            let sink = per_head[(first_sink + row % first_sink) as usize];
            let highest = sink.max(log_sum);
            let weight = (log_sum - highest).exp();
            let weights = weight + (sink - highest).exp();
            keep = weight / weights;
            log_sum = highest + weights.ln();
        }
        while channel < dim {
            let mut sum = sums[channel as usize];
            if comptime!(sinks) {
                sum *= keep;
            }
            out[(row * dim + channel) as usize] = F::cast_from(sum);
            channel += COMBINE_THREADS;
        }
        if UNIT_POS_X == 0u32 {
            lse[row as usize] = log_sum;
        }
    }
}

/// [`combine`] without sinks.
#[cube(launch_unchecked)]
pub(crate) fn combine_parts<F: Float>(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    rows: u32,
    count: u32,
    #[comptime] dim: u32,
) {
    combine(parts, part_lse, part_lse, out, lse, rows, count, 0u32, dim, false);
}

/// [`combine`] of results that count sinks. There are `query_heads` of them, after as many slopes.
#[cube(launch_unchecked)]
pub(crate) fn combine_parts_sinks<F: Float>(
    parts: &Array<f32>,
    part_lse: &Array<f32>,
    per_head: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    rows: u32,
    count: u32,
    query_heads: u32,
    #[comptime] dim: u32,
) {
    combine(parts, part_lse, per_head, out, lse, rows, count, query_heads, dim, true);
}
