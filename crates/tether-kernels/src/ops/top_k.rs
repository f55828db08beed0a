//! Exact selection of the best of many.

use cubecl::prelude::*;
use tether_core::{CoreError, TopKProblem, checks};

use crate::cube::launch::{array, vector_size, whole_planes};
use crate::kernels::top_k::{self, COARSE, Spread};
use crate::{CubeIndices, CubeTensor};

/// Threads of a cube, where the device has so many.
const THREADS: u32 = 512;
/// Columns of a thread, at most, where a row is one cube's.
const ROW_ITEMS: u32 = 16;
/// Columns of a thread where a row is spread over cubes, and the fewest and most when rows are few or long. Of the most, a cube's columns
/// are fewer than 2^16, which counts in half words rely on.
const ITEMS: u32 = 16;
const FEWEST_ITEMS: u32 = 4;
const MOST_ITEMS: u32 = 64;
/// Slices of a row above which they grow instead of multiply: each reads the counts of all.
const MANY_SLICES: u32 = 64;
/// Cubes that fill a device that does not say how many processors it has.
const CUBES: u32 = 64;

/// A row is one cube's, or spread over `slices` cubes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blueprint {
    Row(Spread),
    Slices(Spread, u32),
}

fn blueprint<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    problem: &TopKProblem,
) -> Result<Blueprint, CoreError> {
    let hardware = &client.properties().hardware;
    let threads = THREADS.min(hardware.max_units_per_cube.max(1));
    let threads = 1 << threads.ilog2();
    if threads < COARSE {
        return Err(CoreError::Unsupported { engine, feature: "top-k with cubes of fewer than 256 threads" });
    }
    let plane = whole_planes(client, threads);
    let columns = problem.columns as u32;
    let items = columns.div_ceil(threads).next_power_of_two().max(FEWEST_ITEMS);
    if items <= ROW_ITEMS {
        return Ok(Blueprint::Row(Spread { threads, items, plane }));
    }
    let slices = |items: u32| columns.div_ceil(threads * items);
    let busy = hardware.num_streaming_multiprocessors.unwrap_or(CUBES) as usize * 3 / 4;
    let mut items = ITEMS;
    while items > FEWEST_ITEMS && problem.rows * (slices(items) as usize) < busy {
        items /= 2;
    }
    while items < MOST_ITEMS && slices(items) > MANY_SLICES {
        items *= 2;
    }
    Ok(Blueprint::Slices(Spread { threads, items, plane }, slices(items)))
}

pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    problem: &TopKProblem,
    scores: &CubeTensor,
    out: &CubeIndices,
) -> Result<(), CoreError> {
    let blueprint = blueprint(client, engine, problem)?;
    let &TopKProblem { rows, columns, k } = problem;
    let width = vector_size(client, size_of::<u32>(), &[columns]);
    // Scores are looked at as bits: a device may flush denormal floats, and may treat NaN as it likes.
    let scores = || array(&scores.handle, scores.len() / width);
    let (rows_y, rows_z) = folded(rows);
    match blueprint {
        Blueprint::Row(spread) => {
            let count = CubeCount::Static(rows_y, rows_z, 1);
            #[allow(unsafe_code, reason = "unchecked: a cube looks at its own bounds, once for many columns")]
            // SAFETY: columns are compared with `columns` before they are read; places come from counts that add up to `k` a row.
            unsafe {
                top_k::select_row::launch_unchecked::<R>(
                    client,
                    count,
                    CubeDim::new_1d(spread.threads),
                    width,
                    scores(),
                    array(&out.handle, out.len()),
                    rows as u32,
                    columns as u32,
                    k as u32,
                    spread,
                );
            }
        }
        Blueprint::Slices(spread, slices) => {
            let count = || CubeCount::Static(slices, rows_y, rows_z);
            let dim = CubeDim::new_1d(spread.threads);
            let parts = rows * slices as usize;
            let work_len = top_k::work_len(parts, rows * columns);
            checks::index_space("words of a selection", &[work_len], u32::MAX as usize)?;
            let work = client.empty(work_len * size_of::<u32>());
            let work = || array(&work, work_len);
            #[allow(unsafe_code, reason = "unchecked: a cube looks at its own bounds, once for many columns")]
            // SAFETY: columns are compared with `columns` before they are read; a row has no more candidates than columns; slices come from
            // the cube count that the working memory was made for; places come from counts that add up to `k` a row.
            unsafe {
                top_k::count_digits::launch_unchecked::<R>(
                    client,
                    count(),
                    dim,
                    width,
                    scores(),
                    work(),
                    rows as u32,
                    columns as u32,
                    spread,
                );
                top_k::gather_candidates::launch_unchecked::<R>(
                    client,
                    count(),
                    dim,
                    width,
                    scores(),
                    work(),
                    rows as u32,
                    columns as u32,
                    k as u32,
                    spread,
                );
                top_k::emit_chosen::launch_unchecked::<R>(
                    client,
                    count(),
                    dim,
                    width,
                    scores(),
                    work(),
                    array(&out.handle, out.len()),
                    rows as u32,
                    columns as u32,
                    k as u32,
                    spread,
                );
            }
        }
    }
    Ok(())
}

/// Rows on two axes of the grid, because one may hold 65535 cubes only.
fn folded(rows: usize) -> (u32, u32) {
    let first = rows.clamp(1, 32_768);
    (first as u32, rows.div_ceil(first).max(1) as u32)
}
