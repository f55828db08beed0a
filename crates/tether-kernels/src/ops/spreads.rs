//! How rows of a block spread over their channels, in units of the next block.

use cubecl::prelude::*;
use tether_core::{CoreError, DType};

use super::row_scores::heads_of_rows;
use crate::cube::launch::{array, flat_by, with_storage};
use crate::kernels::spreads::{self, THREADS};
use crate::{Cube, CubeTensor};

impl<R: Runtime> Cube<R> {
    /// Softmax over each block of `size` rows of `x`, `[heads, tokens, dim]`, after the first `first`: `[heads,
    /// blocks * size]`. One block more than `blocks` is there.
    pub(crate) fn block_spreads(
        &self,
        x: &CubeTensor,
        (first, size): (usize, usize),
        blocks: usize,
    ) -> Result<CubeTensor, CoreError> {
        let [heads, tokens, dim] = heads_of_rows(x)?;
        let client = self.client();
        if heads > 65_535 || blocks > 65_535 {
            let feature = "more than 65535 heads, or blocks of tokens";
            return Err(CoreError::Unsupported { engine: R::name(client), feature });
        }
        let ranges = self.tensor(&[heads, blocks, 2, dim], DType::F32)?;
        let out = self.tensor(&[heads * blocks, size], DType::F32)?;
        let cubes = CubeCount::Static((dim as u32).div_ceil(THREADS), blocks as u32, heads as u32);
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the first kernel stops at `dim` channels of blocks that are there, the second one at the rows of
        // `blocks` blocks.
        unsafe {
            with_storage!(x.dtype, F => {
                spreads::block_ranges::launch_unchecked::<F, R>(
                    client, cubes, CubeDim::new_1d(THREADS), array(&x.handle, x.len()),
                    array(&ranges.handle, ranges.len()), tokens as u32, dim as u32, first as u32, size as u32,
                );
                spreads::block_spreads::launch_unchecked::<F, R>(
                    client, count, threads, array(&x.handle, x.len()), array(&ranges.handle, ranges.len()),
                    array(&out.handle, out.len()), heads as u32, tokens as u32, dim as u32, first as u32,
                    size as u32, blocks as u32,
                );
            });
        }
        self.softmax_rows(&out, 0);
        Ok(CubeTensor { shape: [heads, blocks * size].as_slice().into(), ..out })
    }
}
