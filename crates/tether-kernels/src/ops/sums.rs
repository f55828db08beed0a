//! Attention that tokens get, added up.

use cubecl::prelude::*;
use tether_core::{CoreError, DecodeProblem, NewQueries};

use crate::cube::launch::{array, uploaded, with_storage};
use crate::kernels::sums;
use crate::ops::decode::Shaping;
use crate::{Cube, CubeTables, CubeTensor};

/// Tokens of a tile.
const TILE: usize = 16;

#[allow(clippy::too_many_arguments, reason = "a launch")]
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    problem: &DecodeProblem,
    (queries, tables): (&NewQueries<'_, Cube<R>>, &CubeTables),
    (scale, shaping): (f32, Option<&Shaping<'_>>),
    keys: &CubeTensor,
    lse: &CubeTensor,
    into: &CubeTensor,
) -> Result<(), CoreError> {
    let unsupported = |feature| CoreError::Unsupported { engine, feature };
    let shared = client.properties().hardware.max_shared_memory_size.min(32 << 10);
    let bytes = |tile: usize| tile * ((problem.head_dim_k + 1) * size_of::<f32>() + size_of::<u32>());
    let tile = [TILE, 8, 4, 2, 1].into_iter().find(|&tile| bytes(tile) <= shared);
    let tile = tile.ok_or_else(|| unsupported("heads of this size"))?;
    let (tiles, sequences) = (tables.longest.div_ceil(tile), tables.sequences);
    if tiles == 0 || sequences == 0 {
        return Ok(());
    }
    if problem.kv_heads > 65_535 || sequences > 65_535 {
        return Err(unsupported("more than 65535 sequences or heads"));
    }
    let (batch, batch_len) = uploaded(client, queries.starts);
    let count = CubeCount::Static(tiles as u32, problem.kv_heads as u32, sequences as u32);
    let q = queries.q;
    let dim = CubeDim::new_1d(sums::THREADS);
    let (page_heads, page_size) = (problem.page_heads as u32, problem.page_size as u32);
    let (group, head_dim) = (problem.group as u32, problem.head_dim_k as u32);
    let (keys, lse) = (array(&keys.handle, keys.len()), array(&lse.handle, lse.len()));
    let batch = array(&batch, batch_len);
    let starts = array(&tables.indptr, tables.indptr_len);
    let pages = array(&tables.pages, tables.pages_len);
    let lengths = array(&tables.lengths, tables.lengths_len);
    let into = array(&into.handle, into.len());
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel reads tokens below each list's length, whose pages lie in the pool (checked by the tables' bound), and queries of the
    // batch's starts, which end with the tokens of `q`; sums have a number for each row and query head of the group (checked). With options, as attention's kernels.
    unsafe {
        with_storage!(q.dtype, F => match shaping {
            None => sums::add_attention::launch_unchecked::<F, R>(
                client, count, dim, array(&q.handle, q.len()), keys, lse, batch, starts, pages, lengths, into,
                scale, page_heads, page_size, group, head_dim, tile as u32,
            ),
            Some(shaping) => {
                let [row_positions, token_positions] = shaping.words(tables);
                sums::add_attention_options::launch_unchecked::<F, R>(
                    client, count, dim, array(&q.handle, q.len()), keys, lse, batch, starts, pages, lengths,
                    row_positions, token_positions, shaping.per_head(), into, scale, shaping.softcap(),
                    shaping.window(), page_heads, page_size, group, head_dim, tile as u32,
                    shaping.options(false),
                );
            }
        });
    }
    Ok(())
}
