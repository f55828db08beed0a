//! Paged decode attention over spherical codes.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::{CoreError, DecodeProblem};

use super::decode::{load_words, parts, plain_cut, row_blocks};
use crate::cube::launch::{array, has_matrix_units, spread, whole_planes, with_storage};
use crate::cube::spherical::LEVELS;
use crate::kernels::decode;
use crate::{CubeFrame, CubeSpherical, CubeTables, CubeTensor};

/// What there is to attend over.
pub(crate) struct Arguments<'a> {
    pub(crate) problem: &'a DecodeProblem,
    pub(crate) tables: &'a CubeTables,
    pub(crate) scale: f32,
    pub(crate) q: &'a CubeTensor,
    pub(crate) k: &'a CubeSpherical,
    pub(crate) k_frame: &'a CubeFrame,
    pub(crate) v: &'a CubeSpherical,
    pub(crate) v_frame: &'a CubeFrame,
}

/// Which kernel, and how the work is cut.
struct Blueprint {
    /// Warps of a cube on matrix units; none without them.
    warps: Option<u32>,
    /// Query rows of a cube, and cubes that share a key head's.
    rows: u32,
    row_blocks: u32,
    /// Tokens of a tile in shared memory, without matrix units.
    tile: u32,
    /// Parts of a list.
    parts: u32,
}

/// Warps that a multiprocessor runs at once: registers allow so many.
const RESIDENT_WARPS: usize = 16;

impl Blueprint {
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        engine: &'static str,
        args: &Arguments<'_>,
    ) -> Result<Self, CoreError> {
        let unsupported = |feature| CoreError::Unsupported { engine, feature };
        let problem = args.problem;
        let hardware = &client.properties().hardware;
        let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
        let (bits_k, bits_v) = (args.k.bits(), args.v.bits());
        // Four threads share a row of keys and eight one of values, in whole words.
        let matrix = has_matrix_units(client, args.q.dtype)
            && [bits_k, bits_v].iter().all(|bits| matches!(bits, 1 | 2 | 4))
            && (dk * bits_k as usize).is_multiple_of(4 * 32)
            && (dv * bits_v as usize).is_multiple_of(8 * 32);
        let (warps, rows, tile) = if matrix {
            let rows = problem.group.min(decode::SPHERICAL_ROWS);
            let merge_bytes = |warps: u32| warps as usize * rows * (dv + 2) * size_of::<f32>();
            let warps = [8u32, 4, 2, 1].into_iter().find(|&w| merge_bytes(w) <= 40 << 10).unwrap_or(1);
            (Some(warps), rows, 16)
        } else {
            let (rows, tile) = plain_cut(hardware.max_shared_memory_size, problem, 0)
                .ok_or_else(|| unsupported("heads of this size"))?;
            (None, rows, tile)
        };
        let row_blocks = row_blocks(engine, problem, rows)?;
        let multiprocessors = hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
        let at_once = multiprocessors * warps.map_or(8, |warps| RESIDENT_WARPS / warps as usize);
        let lists = problem.sequences * problem.kv_heads * row_blocks as usize;
        let parts = parts(lists, args.tables.longest, at_once);
        Ok(Self { warps, rows: rows as u32, row_blocks, tile: tile as u32, parts })
    }
}

pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    args: &Arguments<'_>,
    out: &CubeTensor,
    lse: &CubeTensor,
) -> Result<(), CoreError> {
    let print = Blueprint::new(client, engine, args)?;
    let problem = args.problem;
    let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
    let rows = problem.sequences * problem.query_heads();
    let part_rows = rows * print.parts as usize;
    let part_out = client.empty(part_rows * dv * size_of::<f32>());
    let part_lse = client.empty(part_rows * size_of::<f32>());
    let (x, y) = spread(rows);
    with_storage!(args.q.dtype, F => {
        with_storage!(args.k.radius, S => parts_of::<F, S, R>(client, args, &print, &part_out, &part_lse));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `rows` rows, of which all buffers have as many; heads of rows are heads of the frames.
        unsafe {
            decode::combine_spherical::launch_unchecked::<F, R>(
                client, CubeCount::Static(x, y, 1), CubeDim::new_1d(decode::SPHERICAL_COMBINE_THREADS),
                array(&part_out, part_rows * dv), array(&part_lse, part_rows),
                array(&args.q.handle, args.q.len()),
                array(&args.k_frame.means, problem.kv_heads * dk), array(&args.v_frame.means, problem.kv_heads * dv),
                array(&args.v_frame.channels, 2 * dv),
                array(&out.handle, out.len()), array(&lse.handle, lse.len()),
                args.scale, rows as u32, print.parts, problem.query_heads() as u32, problem.group as u32,
                dk as u32, dv as u32, whole_planes(client, decode::SPHERICAL_COMBINE_THREADS),
            );
        }
    });
    Ok(())
}

fn parts_of<F: Float + CubeElement, S: Float + CubeElement, R: Runtime>(
    client: &ComputeClient<R>,
    args: &Arguments<'_>,
    print: &Blueprint,
    out: &Handle,
    lse: &Handle,
) {
    let Arguments { problem, tables, scale, q, k, k_frame, v, .. } = *args;
    let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
    let rows = problem.sequences * problem.query_heads() * print.parts as usize;
    let count =
        CubeCount::Static(print.parts, problem.kv_heads as u32 * print.row_blocks, problem.sequences as u32);
    let pool_rows = problem.pool_pages * problem.page_size * problem.page_heads;
    let (page_heads, page_size) = (problem.page_heads as u32, problem.page_size as u32);
    let group = problem.group as u32;
    let (nk, nv) = match print.warps {
        Some(_) => (load_words(k.row_words(), 4), load_words(v.row_words(), 8)),
        None => (1, 1),
    };
    let queries = array::<R>(&q.handle, q.len());
    let (keys, values) = (array::<R>(&k.codes, k.words() / nk), array::<R>(&v.codes, v.words() / nv));
    let (k_radii, v_radii) = (array::<R>(&k.radii, pool_rows), array::<R>(&v.radii, pool_rows));
    let (channels, levels) = (array::<R>(&k_frame.channels, 2 * dk), array::<R>(&k_frame.levels, LEVELS));
    let indptr = array::<R>(&tables.indptr, tables.indptr_len);
    let pages = array::<R>(&tables.pages, tables.pages_len);
    let lengths = array::<R>(&tables.lengths, tables.lengths_len);
    let (out, lse) = (array::<R>(out, rows * dv), array::<R>(lse, rows));
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernels read rows of pages that lie in the pool (checked by the tables' bound), whole pages of them, and write rows below `rows`.
    unsafe {
        match print.warps {
            Some(warps) => decode::decode_spherical_matrix::launch_unchecked::<F, S, R>(
                client,
                count,
                CubeDim::new_2d(32, warps),
                nk,
                nv,
                queries,
                keys,
                values,
                k_radii,
                v_radii,
                channels,
                levels,
                indptr,
                pages,
                lengths,
                out,
                lse,
                scale,
                page_heads,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                k.bits(),
                v.bits(),
                warps,
                page_size,
                print.rows,
            ),
            None => decode::decode_spherical_plain::launch_unchecked::<F, S, R>(
                client,
                count,
                CubeDim::new_1d(decode::THREADS),
                queries,
                keys,
                values,
                k_radii,
                v_radii,
                channels,
                levels,
                indptr,
                pages,
                lengths,
                out,
                lse,
                scale,
                page_heads,
                page_size,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                k.bits(),
                v.bits(),
                print.rows,
                print.tile,
            ),
        }
    }
}
