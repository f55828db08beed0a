//! Likeness of tokens in frames.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, HostTensor, NEIGHBOURS, ScoreOp, TokenEngine, TokenGrid};

use super::row_scores::heads_of_rows;
use crate::cube::launch::{array, flat_by, uploaded, with_storage};
use crate::kernels::frames::{self, THREADS};
use crate::kernels::row_forms::Form;
use crate::kernels::row_scores::Product;
use crate::{Cube, CubeTensor};

impl<R: Runtime> Cube<R> {
    /// How little tokens are like their neighbours: `x` is `[tokens, heads, dim]`, the result `[heads, tokens]`.
    pub(crate) fn frame_saliency(&self, x: &CubeTensor, grid: &TokenGrid) -> Result<CubeTensor, CoreError> {
        let [tokens, heads, _] = heads_of_rows(x)?;
        let (rows, width) = one_head(x)?;
        let lengths = self.row_products((&rows, tokens), None, Product::Length, 1.0)?;
        let (neighbours, neighbours_len) = uploaded(self.client(), grid.neighbours.as_flattened());
        let out = self.tensor(&[heads, tokens], DType::F32)?;
        let (count, threads) = flat_by(tokens, THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a token; neighbours are tokens of the grid, of which there are as many as rows (checked
        // with the leaf).
        unsafe {
            with_storage!(x.dtype, F => frames::neighbour_saliency::launch_unchecked::<F, R>(
                self.client(), count, threads, array(&x.handle, x.len()), array(&lengths.handle, lengths.len()),
                array(&neighbours, neighbours_len), array(&out.handle, out.len()), heads as u32, tokens as u32,
                width as u32, NEIGHBOURS as u32,
            ));
        }
        Ok(out)
    }

    /// 1 for tokens that pass and 0 for the others: `x` is `[tokens, heads, dim]`, the result `[heads, tokens]`.
    pub(crate) fn frame_gate(
        &self,
        x: &CubeTensor,
        grid: &TokenGrid,
        kept: usize,
    ) -> Result<CubeTensor, CoreError> {
        let [tokens, heads, _] = heads_of_rows(x)?;
        let TokenGrid { newest, older, .. } = grid;
        if older.len() <= kept || newest.is_empty() {
            return tether_core::Engine::upload(
                self,
                &HostTensor::from_f32(&[heads, tokens], vec![1.0; heads * tokens])?,
            );
        }
        let (rows, width) = one_head(x)?;
        let table = CubeTensor { shape: [tokens, width].as_slice().into(), ..rows };
        let chosen = |of: &[u32]| self.read_rows(&table, &self.upload_indices(&[1, of.len()], of)?);
        let (newest, past) = (chosen(newest)?, chosen(older)?);
        let lengths = |of: &CubeTensor| self.row_products((of, of.shape[1]), None, Product::Length, 1.0);
        let likeness = self.row_forms(&past, (&newest, Some(&lengths(&newest)?)), Form::Largest)?;
        let numbers = self.negated_quotients(&likeness, &lengths(&past)?)?;
        // The last of those that pass has the limit.
        let passing = self.top_k(&numbers, kept.max(1))?;
        let column = CubeTensor { shape: [older.len(), 1].as_slice().into(), ..numbers.clone() };
        let passing = self.read_rows(&column, &passing)?;
        let passing = CubeTensor { shape: [1, kept.max(1)].as_slice().into(), ..passing };
        let limit =
            self.row_maxima(&self.score_op(&ScoreOp::Linear { by: -1.0, plus: 0.0 }, &[&passing])?)?;
        let mut places = vec![u32::MAX; tokens];
        (0..).zip(older).for_each(|(place, &token)| places[token as usize] = place);
        let (places, places_len) = uploaded(self.client(), &places);
        let out = self.tensor(&[heads, tokens], DType::F32)?;
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number; places are those of the older tokens.
        unsafe {
            frames::open_gate::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&numbers.handle, numbers.len()),
                array(&limit.handle, limit.len()),
                array(&places, places_len),
                array(&out.handle, out.len()),
                heads as u32,
                tokens as u32,
                u32::MAX,
            );
        }
        Ok(out)
    }

    fn negated_quotients(&self, x: &CubeTensor, lengths: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&x.shape, DType::F32)?;
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number, of which both have as many.
        unsafe {
            frames::negated_quotients::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&lengths.handle, lengths.len()),
                array(&out.handle, out.len()),
                out.len() as u32,
            );
        }
        Ok(out)
    }
}

/// Rows of all heads together, `[1, tokens, heads * dim]` of `[tokens, heads, dim]`, and how wide they are.
fn one_head(x: &CubeTensor) -> Result<(CubeTensor, usize), CoreError> {
    let [tokens, heads, dim] = heads_of_rows(x)?;
    let width = heads * dim;
    Ok((CubeTensor { shape: [1, tokens, width].as_slice().into(), ..x.clone() }, width))
}
