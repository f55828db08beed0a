//! Leaves of score expressions, made of rows that lie together.

use cubecl::Runtime;
use tether_core::{
    CoreError, DType, LeafProblem, MeanRotation, Pool, ScoreLeaf, Shape, TokenEngine, TokenGrid, WindowSpec,
};

use super::query_scores::QueryRows;
use super::row_scores::Strides;
use crate::kernels::row_scores::Product;
use crate::{Cube, CubeTensor};

/// What a leaf is made of beside the rows.
pub(crate) struct LeafInputs<'a> {
    pub(crate) queries: Option<&'a CubeTensor>,
    pub(crate) probe_keys: Option<&'a CubeTensor>,
    pub(crate) rotation: Option<&'a MeanRotation>,
    pub(crate) projection: Option<&'a CubeTensor>,
    pub(crate) raw_keys: Option<&'a CubeTensor>,
    pub(crate) grid: Option<&'a TokenGrid>,
    pub(crate) scale: f32,
}

impl<R: Runtime> Cube<R> {
    /// A leaf of rows that lie together: `x` `[kv_heads, tokens, dim]` are keys, values or sums as the leaf asks.
    pub(crate) fn leaf(
        &self,
        leaf: &ScoreLeaf,
        problem: &LeafProblem,
        x: &CubeTensor,
        inputs: &LeafInputs<'_>,
    ) -> Result<CubeTensor, CoreError> {
        let &LeafProblem { kv_heads, tokens, group, dim, asked } = problem;
        let columns = leaf.columns(tokens);
        let missing = |what| CoreError::Count { what, expected: 1, got: 0 };
        let queries = || inputs.queries.ok_or(missing("queries"));
        let scale = inputs.scale;
        if kv_heads * columns == 0 {
            return self.tensor(&[kv_heads, columns], DType::F32);
        }
        match *leaf {
            ScoreLeaf::WindowAttention { smoothing, .. } => {
                self.window_scores(queries()?, x, &WindowSpec { scale, pool: smoothing })
            }
            ScoreLeaf::AttentionSums => {
                let strides =
                    Strides { first: 0, head: tokens * group, column: group, step: 1, count: group };
                self.strided_means(x, (kv_heads, tokens), strides, 1.0)
            }
            ScoreLeaf::KeyNorm | ScoreLeaf::ValueNorm => {
                self.row_products((x, tokens), None, Product::Length, 1.0)
            }
            ScoreLeaf::KeyMeanCosine => {
                let lengths = self.row_products((x, tokens), None, Product::Length, 1.0)?;
                let mean = self.row_means((x, tokens), Some(&lengths))?;
                self.row_products((x, tokens), Some(&mean), Product::Cosine, 1.0)
            }
            ScoreLeaf::KeyRedundancy { .. } => {
                let lengths = self.row_products((x, columns), None, Product::Length, 1.0)?;
                let mean = self.row_means((x, columns), Some(&lengths))?;
                self.row_products((x, columns), Some(&mean), Product::Others, 1.0 / columns as f32)
            }
            ScoreLeaf::MeanLogit { .. } => {
                // The queries of a key head's query heads lie together.
                let shape: Shape = [kv_heads, group * asked, dim].as_slice().into();
                let all = CubeTensor { shape, ..queries()?.clone() };
                let mean = self.row_means((&all, group * asked), None)?;
                self.row_products((x, tokens), Some(&mean), Product::Dot, scale)
            }
            ScoreLeaf::SampledAttention { queries: count } => {
                let visible = ScoreLeaf::sampled_tokens(count, tokens).map(|t| t as u32 + 1).collect();
                let rows = QueryRows { visible, columns: tokens, scale, largest: false };
                self.query_attention((queries()?, x), problem, &rows, (1, columns))
            }
            ScoreLeaf::LargestAttention { .. } => {
                let rows = QueryRows { visible: vec![columns as u32; asked], columns, scale, largest: true };
                self.query_attention((queries()?, x), problem, &rows, (1, columns))
            }
            ScoreLeaf::SpanAttention { span, best, .. } => {
                let before = tokens - asked;
                let visible = (before as u32 + 1..).take(asked).collect();
                let rows = QueryRows { visible, columns: tokens, scale, largest: false };
                let means = self.query_attention((queries()?, x), problem, &rows, (group, before))?;
                let means = self.span_means(&means, span, best)?;
                let strides =
                    Strides { first: 0, head: group * columns, column: 1, step: columns, count: group };
                self.strided_means(&means, (kv_heads, columns), strides, 1.0)
            }
            ScoreLeaf::ProbeAttention { smoothing } => {
                let both = self.joined(x, inputs.probe_keys.ok_or(missing("keys of probes"))?)?;
                let spec = WindowSpec { scale, pool: smoothing };
                let means = self.window_scores(queries()?, &both, &spec)?;
                let strides = Strides { first: 0, head: tokens, column: 1, step: 0, count: 1 };
                self.strided_means(&means, (kv_heads, tokens), strides, asked as f32)
            }
            ScoreLeaf::ExpectedAttention { sink, covariance, .. } => {
                let rotation = inputs.rotation.ok_or(missing("channels of a rotation"))?;
                let moments = self.moments_to_come(queries()?, rotation, scale, covariance)?;
                self.expected_attention(x, &moments, group, sink)
            }
            ScoreLeaf::ProjectedValueNorm => {
                let projection = inputs.projection.ok_or(missing("the output projection"))?;
                self.projected_norms(x, projection, group)
            }
            ScoreLeaf::KeySpread { first, size } | ScoreLeaf::ValueSpread { first, size } => {
                self.block_spreads(x, (first, size), columns / size)
            }
            ScoreLeaf::FrameSaliency | ScoreLeaf::FrameGate { .. } => {
                let grid = inputs.grid.ok_or(missing("tokens of a grid"))?;
                let keys = inputs.raw_keys.ok_or(missing("keys before the rotation"))?;
                match *leaf {
                    ScoreLeaf::FrameGate { kept } => self.frame_gate(keys, grid, kept),
                    _ => self.frame_saliency(keys, grid),
                }
            }
            _ => {
                let feature = "this leaf of a score";
                Err(CoreError::Unsupported { engine: R::name(self.client()), feature })
            }
        }
    }

    /// Rows of both, one head after the other: `x` `[heads, n, dim]` and `y` `[heads, m, dim]` as `[heads, n + m,
    /// dim]`.
    fn joined(&self, x: &CubeTensor, y: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let (heads, n, m, dim) = (x.shape[0], x.shape[1], y.shape[1], x.shape[2]);
        let mut both = self.tensor(&[heads, n + m, dim], x.dtype)?;
        let rows = |first: usize, count: usize| -> Vec<u32> {
            let of_head = |head: usize| (head * (n + m) + first) as u32;
            (0..heads).flat_map(|head| (of_head(head)..).take(count)).collect()
        };
        for (part, (first, count)) in [(x, (0, n)), (y, (n, m))] {
            let rows = self.upload_indices(&[heads, count], &rows(first, count))?;
            self.write_rows(&mut both, &rows, part)?;
        }
        Ok(both)
    }
}

/// Whether a leaf has kernels.
pub(crate) fn has_leaf(leaf: &ScoreLeaf) -> bool {
    match leaf {
        ScoreLeaf::WindowAttention { smoothing, .. } | ScoreLeaf::ProbeAttention { smoothing } => {
            !matches!(smoothing, Pool::Mean(0) | Pool::Max(0))
        }
        ScoreLeaf::AttentionSums
        | ScoreLeaf::KeyNorm
        | ScoreLeaf::ValueNorm
        | ScoreLeaf::KeyMeanCosine
        | ScoreLeaf::KeyRedundancy { .. }
        | ScoreLeaf::MeanLogit { .. }
        | ScoreLeaf::SampledAttention { .. }
        | ScoreLeaf::LargestAttention { .. }
        | ScoreLeaf::SpanAttention { .. }
        | ScoreLeaf::ExpectedAttention { .. }
        | ScoreLeaf::ProjectedValueNorm
        | ScoreLeaf::KeySpread { .. }
        | ScoreLeaf::ValueSpread { .. }
        | ScoreLeaf::FrameSaliency
        | ScoreLeaf::FrameGate { .. } => true,
        _ => false,
    }
}
