//! Attention that tokens get, added up.

use cubecl::prelude::*;
use tether_core::{CoreError, DecodeProblem, NewQueries};

use crate::cube::launch::{array, uploaded, with_storage};
use crate::kernels::sums;
use crate::{Cube, CubeTables, CubeTensor};

/// Tokens of a tile.
const TILE: usize = 16;

#[allow(clippy::too_many_arguments, reason = "a launch")]
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    problem: &DecodeProblem,
    (queries, tables): (&NewQueries<'_, Cube<R>>, &CubeTables),
    scale: f32,
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
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel reads tokens below each list's length, whose pages lie in the pool (checked by the tables' bound), and queries of the
    // batch's starts, which end with the tokens of `q`; sums have a number for each row and query head of the group (checked).
    unsafe {
        with_storage!(q.dtype, F => sums::add_attention::launch_unchecked::<F, R>(
            client, count, CubeDim::new_1d(sums::THREADS), array(&q.handle, q.len()), array(&keys.handle, keys.len()),
            array(&lse.handle, lse.len()), array(&batch, batch_len), array(&tables.indptr, tables.indptr_len),
            array(&tables.pages, tables.pages_len), array(&tables.lengths, tables.lengths_len),
            array(&into.handle, into.len()), scale, problem.page_heads as u32, problem.page_size as u32,
            problem.group as u32, problem.head_dim_k as u32, tile as u32,
        ));
    }
    Ok(())
}
