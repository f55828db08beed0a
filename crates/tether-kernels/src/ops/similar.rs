//! Rows that leave join those that are most like them.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, PoolRows, SimilarRows, TokenEngine};

use crate::cube::launch::{array, spread, with_storage};
use crate::kernels::row_scores::Product;
use crate::kernels::similar::{self, THREADS};
use crate::{Cube, CubeTensor};

/// Rows of a tile at most.
const TILE: usize = 16;

impl<R: Runtime> Cube<R> {
    /// Values of the rows that stay, with those of the others.
    pub(crate) fn join_rows(&self, rows: &SimilarRows<'_, Self>) -> Result<CubeTensor, CoreError> {
        let SimilarRows { keys, values, kept, leaving, threshold, most } = *rows;
        rows.check(kept.shape(), leaving.shape())?;
        let (stays, leaves) = (kept.len(), leaving.len());
        let dim = PoolRows::new(&keys.shape, kept.shape())?.row_len;
        let of_kept = self.read_rows(values, kept)?;
        if stays == 0 || leaves == 0 || most == 0 {
            return Ok(of_kept);
        }
        let of_leaving = self.read_rows(values, leaving)?;
        let (kept_keys, leaving_keys) = (self.read_rows(keys, kept)?, self.read_rows(keys, leaving)?);
        let client = self.client();
        let unsupported = |feature| CoreError::Unsupported { engine: R::name(client), feature };
        let shared = client.properties().hardware.max_shared_memory_size.min(32 << 10);
        let bytes = |tile: usize| 8 * tile * (dim + 1) + 8 * tile * tile;
        let tile = [TILE, 8, 4, 2].into_iter().find(|&tile| bytes(tile) <= shared);
        let tile = tile.ok_or_else(|| unsupported("heads of this size"))?;
        let lengths = |x: &CubeTensor| -> Result<CubeTensor, CoreError> {
            let row = x.shape[x.shape.len() - 1];
            let rows = x.len() / row.max(1);
            let x = CubeTensor { shape: [1, rows, row].as_slice().into(), ..x.clone() };
            self.row_products((&x, rows), None, Product::Length, 1.0)
        };
        let of_keys = (lengths(&leaving_keys)?, lengths(&kept_keys)?);
        let of_values = (lengths(&of_leaving)?, lengths(&of_kept)?);
        let made = |len: usize| self.tensor(&[len, 1], DType::F32);
        let (places, cosines, weights) = (made(leaves)?, made(leaves)?, made(leaves)?);
        let whole = |x: &CubeTensor| array::<R>(&x.handle, x.len());
        let (x, y) = spread(leaves.div_ceil(tile));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `leaves` and `stays` rows of `dim` numbers, which were just gathered, with a
        // length of key and value for each.
        unsafe {
            with_storage!(keys.dtype, F => similar::most_similar::launch_unchecked::<F, R>(
                client, CubeCount::Static(x, y, 1), CubeDim::new_1d((tile * tile) as u32), whole(&leaving_keys),
                whole(&kept_keys), whole(&of_keys.0), whole(&of_keys.1), whole(&of_values.0),
                whole(&of_values.1), whole(&places), whole(&cosines), whole(&weights), leaves as u32,
                stays as u32, threshold, dim as u32, tile as u32,
            ));
        }
        // The most alike of them, where not all may join.
        let (places, weights, of_leaving, leaves) = if most < leaves {
            let cosines = CubeTensor { shape: [1, leaves].as_slice().into(), ..cosines };
            let chosen = self.top_k(&cosines, most)?;
            let chosen = crate::CubeIndices { shape: [most].as_slice().into(), ..chosen };
            let shape = [leaves, of_leaving.len() / leaves].as_slice().into();
            let of_leaving = CubeTensor { shape, ..of_leaving };
            let of = |x: &CubeTensor| self.read_rows(x, &chosen);
            (of(&places)?, of(&weights)?, of(&of_leaving)?, most)
        } else {
            (places, weights, of_leaving, leaves)
        };
        let out = self.tensor(&of_kept.shape, values.dtype)?;
        let (x, y) = spread(stays);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `stays` rows and `leaves` entries, of rows as long as a row of values.
        unsafe {
            with_storage!(values.dtype, F => similar::join_rows::launch_unchecked::<F, R>(
                client, CubeCount::Static(x, y, 1), CubeDim::new_1d(THREADS), whole(&of_kept),
                whole(&of_leaving), whole(&places), whole(&weights), whole(&out), stays as u32, leaves as u32,
                (of_kept.len() / stays) as u32,
            ));
        }
        Ok(out)
    }
}
