//! Pages of codes: written, restored, and attended to.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_codec::MIN_SCALE_RANGE;
use tether_core::{CoreError, DecodeProblem};

use super::decode::{parts, plain_cut, row_blocks};
use crate::cube::launch::{array, flat, spread, with_storage};
use crate::kernels::rows_of_codes::{self, Coding, RowFormat};
use crate::kernels::{decode, halves};
use crate::{CubeTables, CubeTensor};

/// Rows of one side on the device, as kernels take them.
#[derive(Clone, Copy)]
pub(crate) struct RowsOfCodes<'a> {
    pub(crate) format: RowFormat,
    pub(crate) codes: &'a CubeTensor,
    pub(crate) beside: &'a CubeTensor,
    /// Directions, where there are some.
    pub(crate) frames: Option<&'a CubeTensor>,
}

impl RowsOfCodes<'_> {
    /// Directions as kernels take them; any numbers where they do not look.
    fn frames<R: Runtime>(&self) -> ArrayArg<R> {
        let frames = self.frames.unwrap_or(self.beside);
        array(&frames.handle, frames.len().max(1))
    }

    fn words<R: Runtime>(&self) -> [ArrayArg<R>; 2] {
        [self.codes, self.beside].map(|words| array(&words.handle, words.len().max(1)))
    }
}

/// Codes `x` `[rows of a page, pages, dim]` into pages `places`.
pub(crate) fn write<R: Runtime>(
    client: &ComputeClient<R>,
    x: &CubeTensor,
    (places, pages): (&Handle, usize),
    into: &RowsOfCodes<'_>,
) {
    let format = into.format;
    let (size, count) = (format.page as usize, pages as u32);
    let places = || array::<R>(places, pages);
    #[allow(unsafe_code, reason = "bounds checks in the kernels instead of at every access")]
    // SAFETY: the kernels stop at the rows of `pages` pages, which `x` holds; places lie in the pool, as does what is
    // beside its codes, by their bound.
    unsafe {
        with_storage!(x.dtype, F => {
            if let Coding::Directions(_) = format.coding {
                let (cubes, dim) = flat(pages * format.groups() as usize);
                let [_, beside] = into.words();
                rows_of_codes::scales_of_radii::launch_unchecked::<F, R>(
                    client, cubes, dim, array(&x.handle, x.len()), places(), beside, count, format,
                );
                let (cubes, dim) = flat(pages * size);
                let [codes, beside] = into.words();
                rows_of_codes::directions_of_rows::launch_unchecked::<F, R>(
                    client, cubes, dim, array(&x.handle, x.len()), places(), into.frames(), beside, codes, count,
                    format,
                );
                return;
            }
            if format.groups() > 0 {
                let rows = if format.coding == Coding::Tokens { 1 } else { size };
                let (cubes, dim) = flat(pages * rows * format.groups() as usize);
                let [_, beside] = into.words();
                rows_of_codes::scales_of_groups::launch_unchecked::<F, R>(
                    client, cubes, dim, array(&x.handle, x.len()), places(), beside, count, MIN_SCALE_RANGE, format,
                );
            }
            let (cubes, dim) = flat(pages * size * format.row_words() as usize);
            let [codes, beside] = into.words();
            rows_of_codes::codes_of_rows::launch_unchecked::<F, R>(
                client, cubes, dim, array(&x.handle, x.len()), places(), beside, codes, count, format,
            );
        });
    }
}

/// The numbers of pages `places`, `[rows of a page, pages, dim]`.
pub(crate) fn restore<R: Runtime>(
    client: &ComputeClient<R>,
    from: &RowsOfCodes<'_>,
    (places, pages): (&Handle, usize),
    out: &CubeTensor,
) {
    let (cubes, dim) = flat(out.len());
    let [codes, beside] = from.words();
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel stops at the rows of `pages` pages, which lie in the pool and which `out` has room for.
    unsafe {
        with_storage!(out.dtype, F => rows_of_codes::restore_rows::launch_unchecked::<F, R>(
            client, cubes, dim, codes, beside, from.frames(), array(places, pages), array(&out.handle, out.len()),
            pages as u32, from.format,
        ));
    }
}

/// Rounds numbers to half precision.
pub(crate) fn round_to_half<R: Runtime>(client: &ComputeClient<R>, x: &CubeTensor) {
    let (cubes, dim) = flat(x.len());
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel stops at as many numbers as `x` has.
    unsafe {
        halves::round_to_half::launch_unchecked::<R>(
            client,
            cubes,
            dim,
            array(&x.handle, x.len()),
            x.len() as u32,
        );
    }
}

/// Attention to both of two sets of tokens.
pub(crate) fn merge<R: Runtime>(
    client: &ComputeClient<R>,
    [one, one_lse]: [&CubeTensor; 2],
    [other, other_lse]: [&CubeTensor; 2],
    [out, lse]: [&CubeTensor; 2],
) {
    let rows = lse.len();
    let (cubes, threads) = flat(out.len());
    let of = |x: &CubeTensor| array::<R>(&x.handle, x.len());
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel stops at `rows` rows, of which all six have as many.
    unsafe {
        with_storage!(out.dtype, F => decode::merge_segments::launch_unchecked::<F, R>(
            client, cubes, threads, of(one), of(one_lse), of(other), of(other_lse), of(out), of(lse),
            rows as u32, (out.len() / rows) as u32,
        ));
    }
}

/// Attention over pages of codes, restored in shared memory.
pub(crate) fn attend<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    (problem, tables, scale): (&DecodeProblem, &CubeTables, f32),
    q: &CubeTensor,
    [k, v]: [&RowsOfCodes<'_>; 2],
    [out, lse]: [&CubeTensor; 2],
) -> Result<(), CoreError> {
    let unsupported = CoreError::Unsupported { engine, feature: "heads of this size" };
    let hardware = &client.properties().hardware;
    let (rows, tile) = plain_cut(hardware.max_shared_memory_size, problem, 0).ok_or(unsupported)?;
    let blocks = row_blocks(engine, problem, rows)?;
    let multiprocessors = hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
    let lists = problem.sequences * problem.kv_heads * blocks as usize;
    let parts = parts(lists, tables.longest, multiprocessors * 8);
    let all = problem.sequences * problem.query_heads();
    let dv = problem.head_dim_v;
    let count = CubeCount::Static(parts, problem.kv_heads as u32 * blocks, problem.sequences as u32);
    let (part_out, part_lse) = if parts == 1 {
        (out.handle.clone(), lse.handle.clone())
    } else {
        let part = all * parts as usize;
        (client.empty(part * dv * size_of::<f32>()), client.empty(part * size_of::<f32>()))
    };
    let part_rows = all * parts as usize;
    #[allow(unsafe_code, reason = "bounds checks in the kernels instead of at every access")]
    // SAFETY: the kernels read tokens below each list's length, whose pages lie in the pool (checked by the tables'
    // bound), and write rows below those that there are.
    unsafe {
        with_storage!(q.dtype, F => {
            macro_rules! parts_of {
                ($O:ty) => {{
                    let ([k_codes, k_beside], [v_codes, v_beside]) = (k.words(), v.words());
                    decode::decode_plain_rows::launch_unchecked::<F, $O, R>(
                        client, count, CubeDim::new_1d(decode::THREADS), array(&q.handle, q.len()),
                        k_codes, v_codes, k_beside, v_beside, k.frames(), v.frames(),
                        array(&tables.indptr, tables.indptr_len), array(&tables.pages, tables.pages_len),
                        array(&tables.lengths, tables.lengths_len), array(&part_out, part_rows * dv),
                        array(&part_lse, part_rows), scale, problem.group as u32, blocks, k.format, v.format,
                        rows as u32, tile as u32,
                    );
                }};
            }
            if parts == 1 {
                parts_of!(F);
            } else {
                parts_of!(f32);
                let (x, y) = spread(all);
                decode::combine_parts::launch_unchecked::<F, R>(
                    client, CubeCount::Static(x, y, 1), CubeDim::new_1d(decode::COMBINE_THREADS),
                    array(&part_out, part_rows * dv), array(&part_lse, part_rows), array(&out.handle, out.len()),
                    array(&lse.handle, lse.len()), all as u32, parts, dv as u32,
                );
            }
        });
    }
    Ok(())
}
