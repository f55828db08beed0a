//! Paged decode attention: on matrix units where the device has CUDA's 16 x 8 x 16 product, else on shared memory.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_codec::Bits;
use tether_core::{AttendOptions, CoreError, DType, DecodeProblem};

use crate::cube::launch::{array, has_matrix_units, spread, with_storage};
use crate::kernels::decode;
use crate::{CubeCodes, CubeIndices, CubeTables, CubeTensor};

/// Which kernel, and how the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blueprint {
    matrix: bool,
    warps: u32,
    /// Query rows of a cube, and cubes that share a key head's.
    rows: u32,
    row_blocks: u32,
    /// Tokens of a tile in shared memory, without matrix units.
    tile: u32,
    /// Parts of a list, merged by a second launch when there are several.
    parts: u32,
}

/// Tokens that pass while a cube starts, finishes and is merged: what a further part costs.
const PART_COST: usize = 96;

impl Blueprint {
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        engine: &'static str,
        problem: &DecodeProblem,
        dtype: DType,
        bits: u32,
        longest: usize,
        shaping: Option<&Shaping<'_>>,
    ) -> Result<Self, CoreError> {
        let unsupported = |feature| CoreError::Unsupported { engine, feature };
        let hardware = &client.properties().hardware;
        let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
        // Four threads share a row of keys and eight one of values, in whole words.
        let words = |dim: usize| dim * bits as usize / 32;
        let matrix = has_matrix_units(client, dtype)
            && dk.is_multiple_of(16)
            && dv.is_multiple_of(16)
            && words(dk).is_multiple_of(4)
            && words(dv).is_multiple_of(8);
        let (mut rows, mut tile) = (problem.group.min(decode::ROWS), 16);
        let merge_bytes = |warps: u32| warps as usize * rows * (dv + 2) * size_of::<f32>();
        let warps = [4u32, 2, 1].into_iter().find(|&w| merge_bytes(w) <= 40 << 10).unwrap_or(1);
        if !matrix {
            // Positions and slopes are a row and a column more.
            let extra = usize::from(shaping.is_some());
            (rows, tile) = plain_cut(hardware.max_shared_memory_size, problem, extra)
                .ok_or_else(|| unsupported("heads of this size"))?;
        }
        let row_blocks = row_blocks(engine, problem, rows)?;
        // What runs at once: registers allow two cubes of the matrix kernel on a multiprocessor.
        let multiprocessors = hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
        let at_once = multiprocessors * if matrix { 2 } else { 8 };
        let lists = problem.sequences * problem.kv_heads * row_blocks as usize;
        let parts = parts(lists, shaping.map_or(longest, |shaping| shaping.reach(longest)), at_once);
        Ok(Self { matrix, warps, rows: rows as u32, tile: tile as u32, row_blocks, parts })
    }
}

/// Cubes that share a key head's queries, `rows` each: a launch has an axis for them and one for sequences.
pub(super) fn row_blocks(
    engine: &'static str,
    problem: &DecodeProblem,
    rows: usize,
) -> Result<u32, CoreError> {
    let blocks = problem.group.div_ceil(rows);
    if problem.sequences > 65_535 || problem.kv_heads * blocks > 65_535 {
        return Err(CoreError::Unsupported { engine, feature: "more than 65535 sequences or heads" });
    }
    Ok(blocks as u32)
}

/// Query rows and tokens of a tile that shared memory has room for, without matrix units; `extra` numbers more for each of either.
pub(super) fn plain_cut(shared: usize, problem: &DecodeProblem, extra: usize) -> Option<(usize, usize)> {
    let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
    let most = problem.group.min(decode::ROWS);
    // 32 KiB is what every device has.
    let shared = shared.min(32 << 10);
    let needed = |rows: usize, tile: usize| {
        (rows * (dk + tile + 3 + extra) + tile * (dk + dv + extra)) * size_of::<f32>()
    };
    let cuts = [(16, 16), (16, 8), (8, 8), (4, 4), (1, 2), (1, 1)];
    cuts.into_iter().map(|(r, t)| (most.min(r), t)).find(|&(r, t)| needed(r, t) <= shared)
}

/// Parts that a list is cut into, so that the last wave of cubes is full and none is too short.
pub(super) fn parts(lists: usize, longest: usize, at_once: usize) -> u32 {
    let most = longest.div_ceil(128).clamp(1, decode::MOST_PARTS);
    let cost = |parts: usize| (lists * parts).div_ceil(at_once) * (longest.div_ceil(parts) + PART_COST);
    (1..=most).min_by_key(|&parts| cost(parts)).unwrap_or(1) as u32
}

/// Words of a load: the most that divide a row's words over the threads that share it.
pub(super) fn load_words(row_words: usize, threads: usize) -> usize {
    [4, 2, 1].into_iter().find(|n| (row_words / threads).is_multiple_of(*n)).unwrap_or(1)
}

/// Keys and values as they are stored.
pub(crate) enum Stored<'a> {
    Numbers { k: &'a CubeTensor, v: &'a CubeTensor },
    Codes { k: &'a CubeCodes, v: &'a CubeCodes },
}

impl Stored<'_> {
    fn bits(&self) -> u32 {
        match self {
            Self::Numbers { .. } => 16,
            Self::Codes { k, .. } => match k.problem.format.bits {
                Bits::Four => 4,
                Bits::Eight => 8,
            },
        }
    }
}

/// Options of a call that are more than a scale, and where its tokens stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shaping<'a> {
    pub options: &'a AttendOptions,
    /// Slopes of the query heads, and then their sinks; elements.
    pub per_head: &'a (Handle, usize),
    /// Of the pool's rows and of the queries' tokens.
    pub positions: Option<(&'a CubeIndices, &'a CubeIndices)>,
}

impl Shaping<'_> {
    /// What kernels are made for, of which the results are whole ones or parts.
    pub(super) fn options(&self, whole: bool) -> decode::Options {
        let options = self.options;
        decode::Options {
            softcap: options.softcap.is_some(),
            window: options.window.is_some(),
            alibi: !options.alibi.is_empty(),
            positions: options.uses_positions() && self.positions.is_some(),
            sinks: whole && !options.sinks.is_empty(),
        }
    }

    /// Tokens that a query attends to, of a list of `longest`.
    fn reach(&self, longest: usize) -> usize {
        match self.options.window {
            // A step begins before the window does.
            Some(window) if self.positions.is_none() => longest.min(window as usize + 16),
            _ => longest,
        }
    }

    /// Positions as kernels take them; any words where they do not look.
    pub(super) fn words<R: Runtime>(&self, tables: &CubeTables) -> [ArrayArg<R>; 2] {
        match self.positions {
            Some((rows, tokens)) => [rows, tokens].map(|x| array(&x.handle, x.len())),
            None => [(); 2].map(|()| array(&tables.lengths, tables.lengths_len)),
        }
    }

    pub(super) fn softcap(&self) -> f32 {
        self.options.softcap.unwrap_or(1.0)
    }

    pub(super) fn window(&self) -> u32 {
        self.options.window.unwrap_or(u32::MAX)
    }

    pub(super) fn per_head<R: Runtime>(&self) -> ArrayArg<R> {
        let (handle, len) = self.per_head;
        array(handle, *len)
    }
}

/// Who asks, how, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub problem: &'a DecodeProblem,
    pub tables: &'a CubeTables,
    pub q: &'a CubeTensor,
    pub scale: f32,
    /// Of numbers alone; none for a scale and nothing else.
    pub shaping: Option<Shaping<'a>>,
}

pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    asked: &Asked<'_>,
    stored: &Stored<'_>,
    (out, lse): (&CubeTensor, &CubeTensor),
) -> Result<(), CoreError> {
    let &Asked { problem, tables, q, ref shaping, .. } = asked;
    let bits = stored.bits();
    let print = Blueprint::new(client, engine, problem, q.dtype, bits, tables.longest, shaping.as_ref())?;
    let rows = problem.sequences * problem.query_heads();
    if print.parts == 1 {
        with_storage!(q.dtype, F => {
            parts_of::<F, F, R>(client, asked, stored, &print, (&out.handle, &lse.handle));
        });
        return Ok(());
    }
    let parts = rows * print.parts as usize;
    let part_out = client.empty(parts * problem.head_dim_v * size_of::<f32>());
    let part_lse = client.empty(parts * size_of::<f32>());
    let (x, y) = spread(rows);
    let (count, dim) = (CubeCount::Static(x, y, 1), CubeDim::new_1d(decode::COMBINE_THREADS));
    let sinks = shaping.as_ref().filter(|shaping| !shaping.options.sinks.is_empty());
    with_storage!(q.dtype, F => {
        parts_of::<F, f32, R>(client, asked, stored, &print, (&part_out, &part_lse));
        let part_out = array(&part_out, parts * problem.head_dim_v);
        let part_lse = array(&part_lse, parts);
        let (out, lse) = (array(&out.handle, out.len()), array(&lse.handle, lse.len()));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernels stop at `rows` rows, of which all buffers have as many.
        unsafe {
            match sinks {
                None => decode::combine_parts::launch_unchecked::<F, R>(
                    client, count, dim, part_out, part_lse, out, lse,
                    rows as u32, print.parts, problem.head_dim_v as u32,
                ),
                Some(shaping) => decode::combine_parts_sinks::launch_unchecked::<F, R>(
                    client, count, dim, part_out, part_lse, shaping.per_head(), out, lse,
                    rows as u32, print.parts, problem.query_heads() as u32, problem.head_dim_v as u32,
                ),
            }
        }
    });
    Ok(())
}

fn parts_of<F: Float + CubeElement, O: Float + CubeElement, R: Runtime>(
    client: &ComputeClient<R>,
    asked: &Asked<'_>,
    stored: &Stored<'_>,
    print: &Blueprint,
    (out, lse): (&Handle, &Handle),
) {
    if let (Some(shaping), Stored::Numbers { k, v }) = (&asked.shaping, stored) {
        return shaped_parts::<F, O, R>(client, asked, shaping, (k, v), print, (out, lse));
    }
    let &Asked { problem, tables, q, scale, .. } = asked;
    let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
    let rows = problem.sequences * problem.query_heads() * print.parts as usize;
    let count =
        CubeCount::Static(print.parts, problem.kv_heads as u32 * print.row_blocks, problem.sequences as u32);
    let pool_rows = problem.pool_pages * problem.page_size * problem.page_heads;
    let bits = stored.bits();
    let indptr = || array::<R>(&tables.indptr, tables.indptr_len);
    let pages = || array::<R>(&tables.pages, tables.pages_len);
    let lengths = || array::<R>(&tables.lengths, tables.lengths_len);
    let (page_heads, page_size) = (problem.page_heads as u32, problem.page_size as u32);
    let group = problem.group as u32;
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernels read tokens below each list's length, whose pages lie in the pool (checked by the tables' bound), and write rows
    // below `rows`.
    unsafe {
        if print.matrix {
            let (words_k, words_v) = (dk * bits as usize / 32, dv * bits as usize / 32);
            let (nk, nv) = (load_words(words_k, 4), load_words(words_v, 8));
            let (k, v, k_scales, v_scales, scales) = match stored {
                Stored::Numbers { k, v } => (&k.handle, &v.handle, &k.handle, &v.handle, 1),
                Stored::Codes { k, v } => (&k.codes, &v.codes, &k.scales, &v.scales, pool_rows),
            };
            decode::decode_matrix::launch_unchecked::<F, O, R>(
                client,
                count,
                CubeDim::new_2d(32, print.warps),
                nk,
                nv,
                array(&q.handle, q.len()),
                array(k, pool_rows * words_k / nk),
                array(v, pool_rows * words_v / nv),
                array(k_scales, scales),
                array(v_scales, scales),
                indptr(),
                pages(),
                lengths(),
                array(out, rows * dv),
                array(lse, rows),
                scale,
                page_heads,
                page_size,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                bits,
                q.dtype == DType::F16,
                print.warps,
                problem.page_size.is_multiple_of(16),
                print.rows,
            );
            return;
        }
        let dim = CubeDim::new_1d(decode::THREADS);
        match stored {
            Stored::Numbers { k, v } => decode::decode_plain::launch_unchecked::<F, O, R>(
                client,
                count,
                dim,
                array(&q.handle, q.len()),
                array(&k.handle, k.len()),
                array(&v.handle, v.len()),
                indptr(),
                pages(),
                lengths(),
                array(out, rows * dv),
                array(lse, rows),
                scale,
                page_heads,
                page_size,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                print.rows,
                print.tile,
            ),
            Stored::Codes { k, v } => decode::decode_plain_codes::launch_unchecked::<F, O, R>(
                client,
                count,
                dim,
                array(&q.handle, q.len()),
                array(&k.codes, k.words()),
                array(&v.codes, v.words()),
                array(&k.scales, k.scale_len()),
                array(&v.scales, v.scale_len()),
                indptr(),
                pages(),
                lengths(),
                array(out, rows * dv),
                array(lse, rows),
                scale,
                page_heads,
                page_size,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                bits,
                print.rows,
                print.tile,
            ),
        }
    }
}

/// [`parts_of`] with options.
fn shaped_parts<F: Float + CubeElement, O: Float + CubeElement, R: Runtime>(
    client: &ComputeClient<R>,
    asked: &Asked<'_>,
    shaping: &Shaping<'_>,
    (k, v): (&CubeTensor, &CubeTensor),
    print: &Blueprint,
    (out, lse): (&Handle, &Handle),
) {
    let &Asked { problem, tables, q, scale, .. } = asked;
    let &DecodeProblem { head_dim_k: dk, head_dim_v: dv, .. } = problem;
    let rows = problem.sequences * problem.query_heads() * print.parts as usize;
    let count =
        CubeCount::Static(print.parts, problem.kv_heads as u32 * print.row_blocks, problem.sequences as u32);
    let indptr = array(&tables.indptr, tables.indptr_len);
    let pages = array(&tables.pages, tables.pages_len);
    let lengths = array(&tables.lengths, tables.lengths_len);
    let [row_positions, token_positions] = shaping.words(tables);
    let per_head = shaping.per_head();
    let (queries, out, lse) = (array(&q.handle, q.len()), array(out, rows * dv), array(lse, rows));
    let (page_heads, page_size) = (problem.page_heads as u32, problem.page_size as u32);
    let group = problem.group as u32;
    let options = shaping.options(print.parts == 1);
    let (softcap, window) = (shaping.softcap(), shaping.window());
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: as that of [`parts_of`]; there are a position for each row of the pool and for each query token, and numbers for each query head, where the kernels look.
    unsafe {
        if print.matrix {
            let (words_k, words_v) = (dk / 2, dv / 2);
            let (nk, nv) = (load_words(words_k, 4), load_words(words_v, 8));
            let pool_rows = problem.pool_pages * problem.page_size * problem.page_heads;
            decode::decode_matrix_options::launch_unchecked::<F, O, R>(
                client,
                count,
                CubeDim::new_2d(32, print.warps),
                nk,
                nv,
                queries,
                array(&k.handle, pool_rows * words_k / nk),
                array(&v.handle, pool_rows * words_v / nv),
                indptr,
                pages,
                lengths,
                row_positions,
                token_positions,
                per_head,
                out,
                lse,
                scale,
                softcap,
                window,
                page_heads,
                page_size,
                group,
                print.row_blocks,
                dk as u32,
                dv as u32,
                q.dtype == DType::F16,
                print.warps,
                problem.page_size.is_multiple_of(16),
                print.rows,
                options,
            );
            return;
        }
        decode::decode_plain_options::launch_unchecked::<F, O, R>(
            client,
            count,
            CubeDim::new_1d(decode::THREADS),
            queries,
            array(&k.handle, k.len()),
            array(&v.handle, v.len()),
            indptr,
            pages,
            lengths,
            row_positions,
            token_positions,
            per_head,
            out,
            lse,
            scale,
            softcap,
            window,
            page_heads,
            page_size,
            group,
            print.row_blocks,
            dk as u32,
            dv as u32,
            print.rows,
            print.tile,
            options,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wave_is_full() {
        // 512 lists on 396 places: one part each would leave the second wave two thirds empty.
        assert!(parts(512, 32_768, 396) > 1);
        assert_eq!(parts(1, 100, 396), 1);
        // Short lists are not cut to dust.
        assert!(parts(8, 4096, 396) <= 32);
    }
}
