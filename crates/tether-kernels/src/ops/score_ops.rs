//! Arithmetic over scores.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, Pool, ScoreOp, TokenEngine};

use super::row_scores::Strides;
use crate::cube::launch::{array, flat_by};
use crate::kernels::score_ops::{self, Map, PlacementLaunch, THREADS};
use crate::kernels::window;
use crate::{Cube, CubeTensor};

/// Columns that are taken, and what stands around them.
#[derive(Clone, Copy, Default)]
struct Placing {
    columns: usize,
    first: usize,
    body: usize,
    offset: usize,
    times: usize,
    by: f32,
    reversed: bool,
    /// What stands around them; `None` for one above the highest.
    end: Option<f32>,
}

impl<R: Runtime> Cube<R> {
    /// What [`ScoreOp`] says.
    pub(crate) fn score_arithmetic(&self, op: &ScoreOp, of: &[&CubeTensor]) -> Result<CubeTensor, CoreError> {
        let shapes: Vec<&[usize]> = of.iter().map(|scores| scores.shape()).collect();
        let [out_heads, out_columns] = op.shape(&shapes)?;
        for scores in of {
            if scores.dtype != DType::F32 {
                let (what, expected, got) = ("scores", DType::F32, scores.dtype);
                return Err(CoreError::DTypeMismatch { what, expected, got });
            }
        }
        let x = of[0];
        let (heads, columns) = (x.shape[0], x.shape[1]);
        if out_heads * out_columns == 0 {
            return self.tensor(&[out_heads, out_columns], DType::F32);
        }
        let placing =
            Placing { columns: out_columns, body: columns, times: 1, by: 1.0, ..Placing::default() };
        match *op {
            ScoreOp::Linear { by, plus } => self.map_scores((x, x), Map::Linear, (by, plus)),
            ScoreOp::Sum => self.map_scores((x, of[1]), Map::Sum, (1.0, 0.0)),
            ScoreOp::Product => self.map_scores((x, of[1]), Map::Product, (1.0, 0.0)),
            ScoreOp::Columns { first: offset, count: body, by, reversed } => {
                let end = Some(0.0);
                self.place_columns(x, Placing { body, offset, by, reversed, end, ..placing })
            }
            ScoreOp::Ends { first, score: end, .. } => {
                self.place_columns(x, Placing { first, end, ..placing })
            }
            ScoreOp::Repeat { times, columns: body } => {
                self.place_columns(x, Placing { body, times, end: Some(0.0), ..placing })
            }
            ScoreOp::Smooth(Pool::None) => Ok(x.clone()),
            ScoreOp::Smooth(over) => self.smoothed(x, over),
            ScoreOp::Softmax => {
                let out = self.map_scores((x, x), Map::Linear, (1.0, 0.0))?;
                self.softmax_rows(&out, 0);
                Ok(out)
            }
            ScoreOp::PerHighest { first, last } => self.per_highest(x, (first, last)),
            ScoreOp::Rank { size } => self.block_ranks(x, size),
            ScoreOp::HeadMean => {
                let strides = Strides { first: 0, head: 0, column: 1, step: columns, count: heads };
                self.strided_means(x, (heads, columns), strides, 1.0)
            }
            ScoreOp::Finite => self.finite_rows(x),
            ScoreOp::Raise { count, first, last } => self.raised((x, of[1]), count, (first, last)),
            ScoreOp::SpanMeans { first, size, end } => self.span_averages(x, (first, size, end), out_columns),
            ScoreOp::Interleaved => {
                let strides = Strides { first: 0, head: 1, column: columns, step: 0, count: 1 };
                let out = self.strided_means(x, (columns, heads), strides, 1.0)?;
                Ok(CubeTensor { shape: [1, heads * columns].as_slice().into(), ..out })
            }
            _ => {
                let feature = "this arithmetic over scores";
                Err(CoreError::Unsupported { engine: R::name(self.client()), feature })
            }
        }
    }

    fn map_scores(
        &self,
        (x, y): (&CubeTensor, &CubeTensor),
        map: Map,
        (by, plus): (f32, f32),
    ) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&x.shape, DType::F32)?;
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number; the first input has as many as the output, and the second one row for several
        // of them.
        unsafe {
            score_ops::map_scores::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&y.handle, y.len()),
                array(&out.handle, out.len()),
                out.len() as u32,
                x.shape[1] as u32,
                (x.len() / y.len()) as u32,
                by,
                plus,
                map,
            );
        }
        Ok(out)
    }

    fn place_columns(&self, x: &CubeTensor, placing: Placing) -> Result<CubeTensor, CoreError> {
        let (heads, from) = (x.shape[0], x.shape[1]);
        let Placing { columns, first, body, offset, times, by, reversed, end } = placing;
        let out = self.tensor(&[heads, columns], DType::F32)?;
        // A table without numbers has no highest one.
        let above = end.is_none() && from > 0;
        let highest = if above { self.row_maxima(x)? } else { x.clone() };
        let (count, threads) = flat_by(out.len(), THREADS);
        let placement = PlacementLaunch::new(
            from as u32,
            columns as u32,
            first as u32,
            body as u32,
            offset as u32,
            times as u32,
        );
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a column, which reads one that is there (checked by the shape of the operation), or the
        // highest of each head.
        unsafe {
            score_ops::place_columns::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&highest.handle, highest.len()),
                array(&out.handle, out.len()),
                placement,
                heads as u32,
                by,
                end.unwrap_or(1.0),
                above,
                reversed,
            );
        }
        Ok(out)
    }

    /// The highest number of each row of `x`, `[rows, columns]`, which has some.
    pub(crate) fn row_maxima(&self, x: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let (rows, columns) = (x.shape[0], x.shape[1]);
        let out = self.tensor(&[rows, 1], DType::F32)?;
        if rows > 65_535 {
            let feature = "more than 65535 heads";
            return Err(CoreError::Unsupported { engine: R::name(self.client()), feature });
        }
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: a cube has a row, and stops at `columns`, of which there is one at least.
        unsafe {
            score_ops::row_maxima::launch_unchecked::<R>(
                self.client(),
                CubeCount::Static(rows as u32, 1, 1),
                CubeDim::new_1d(THREADS),
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                columns as u32,
            );
        }
        Ok(out)
    }

    fn smoothed(&self, x: &CubeTensor, over: Pool) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&x.shape, DType::F32)?;
        let (count, threads) = flat_by(out.len(), THREADS);
        let largest = matches!(over, Pool::Max(_));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a score; places outside the row are left out.
        unsafe {
            window::smooth_scores::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                out.len() as u32,
                x.shape[1] as u32,
                1,
                1,
                over.size() as u32,
                if largest { 1.0 } else { 1.0 / over.size() as f32 },
                largest,
            );
        }
        Ok(out)
    }

    /// Each number over the highest of its row, some columns at either end left out.
    fn per_highest(&self, x: &CubeTensor, (first, last): (usize, usize)) -> Result<CubeTensor, CoreError> {
        let (rows, columns) = (x.shape[0], x.shape[1]);
        let out = self.tensor(&x.shape, DType::F32)?;
        if rows > 65_535 {
            let feature = "more than 65535 heads";
            return Err(CoreError::Unsupported { engine: R::name(self.client()), feature });
        }
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: a cube has a row, and stops at `columns`.
        unsafe {
            score_ops::per_highest::launch_unchecked::<R>(
                self.client(),
                CubeCount::Static(rows as u32, 1, 1),
                CubeDim::new_1d(THREADS),
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                columns as u32,
                first as u32,
                last as u32,
                f32::MIN_POSITIVE,
            );
        }
        Ok(out)
    }

    fn block_ranks(&self, x: &CubeTensor, size: usize) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&x.shape, DType::F32)?;
        let (count, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number, which reads those of its block.
        unsafe {
            score_ops::block_ranks::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                out.len() as u32,
                x.shape[1] as u32,
                size as u32,
            );
        }
        Ok(out)
    }

    fn raised(
        &self,
        (x, by): (&CubeTensor, &CubeTensor),
        count: usize,
        (first, last): (usize, usize),
    ) -> Result<CubeTensor, CoreError> {
        let (heads, columns) = (x.shape[0], x.shape[1]);
        let between = columns - first - last;
        let body = Placing {
            columns: between,
            body: between,
            offset: first,
            times: 1,
            by: 1.0,
            end: Some(0.0),
            ..Placing::default()
        };
        let k = count.saturating_sub(first + last).min(between);
        let candidates = match between {
            0 => self.tensor(&[heads, 0], DType::F32)?,
            _ => self.place_columns(by, body)?,
        };
        let chosen = self.top_k(&candidates, k)?;
        let out = self.tensor(&x.shape, DType::F32)?;
        let (cubes, threads) = flat_by(out.len(), THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a number, which looks through the `k` columns that were chosen of its head.
        unsafe {
            score_ops::raise_columns::launch_unchecked::<R>(
                self.client(),
                cubes,
                threads,
                array(&x.handle, x.len()),
                array(&chosen.handle, chosen.len().max(1)),
                array(&out.handle, out.len()),
                heads as u32,
                columns as u32,
                first as u32,
                last as u32,
                k as u32,
                f32::MAX,
            );
        }
        Ok(out)
    }

    fn span_averages(
        &self,
        x: &CubeTensor,
        (first, size, end): (usize, usize, usize),
        spans: usize,
    ) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&[1, spans], DType::F32)?;
        let (count, threads) = flat_by(spans, THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: one thread a span, which ends at `end` at the latest; that many columns there are (checked by the
        // shape of the operation).
        unsafe {
            score_ops::span_averages::launch_unchecked::<R>(
                self.client(),
                count,
                threads,
                array(&x.handle, x.len()),
                array(&out.handle, out.len()),
                x.shape[0] as u32,
                x.shape[1] as u32,
                first as u32,
                size as u32,
                end as u32,
                spans as u32,
            );
        }
        Ok(out)
    }
}
