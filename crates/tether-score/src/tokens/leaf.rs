//! Leaves of score expressions, worked out on the host: those of attention, of keys and of values.

mod asked;
mod expected;
mod frames;
mod keys;
mod spreads;
mod values;

use tether_core::ScoreLeaf;

use super::attention::group_mean;
use super::scorers::block_logits;
use super::{BlockGrid, TokenObservation};
use crate::ScoreError;

/// The numbers of each key head, `[kv_heads, columns]`.
///
/// # Errors
/// [`ScoreError::Missing`] for what was not recorded.
pub(super) fn host_leaf(leaf: &ScoreLeaf, seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
    let (heads, tokens) = (seen.kv_heads(), seen.tokens());
    if leaf.columns(tokens) == 0 {
        return Ok(Vec::new());
    }
    match *leaf {
        ScoreLeaf::WindowAttention { queries, smoothing } => seen.window_mass(queries, smoothing),
        ScoreLeaf::AttentionSums => {
            Ok(group_mean(&seen.accumulated_attention()?, heads, seen.query_heads(), tokens))
        }
        ScoreLeaf::SampledAttention { queries } => asked::sampled(seen, queries),
        ScoreLeaf::LargestAttention { queries } => asked::largest(seen, queries),
        ScoreLeaf::SpanAttention { queries, span, best } => asked::spans(seen, queries, (span, best)),
        ScoreLeaf::ProbeAttention { smoothing } => asked::probes(seen, smoothing),
        ScoreLeaf::MeanLogit { queries } => asked::mean_logits(seen, queries),
        ScoreLeaf::KeyNorm => Ok(keys::norms(&seen.keys()?, seen.head_dim_k())),
        ScoreLeaf::ValueNorm => Ok(keys::norms(&seen.values()?, seen.head_dim_v())),
        ScoreLeaf::KeyMeanCosine => {
            let (keys, dim) = (seen.keys()?, seen.head_dim_k());
            Ok(keys.chunks_exact(tokens * dim).flat_map(|head| keys::mean_cosines(head, dim)).collect())
        }
        ScoreLeaf::KeyRedundancy { newest } => {
            let (keys, dim) = (seen.keys()?, seen.head_dim_k());
            let older = |head: &[f32]| keys::redundancy(&head[..(tokens - newest) * dim], dim);
            Ok(keys.chunks_exact(tokens * dim).flat_map(older).collect())
        }
        ScoreLeaf::ExpectedAttention { future, sink, covariance } => {
            expected::attention(seen, (future, sink), covariance)
        }
        ScoreLeaf::ProjectedValueNorm => values::projected_norms(seen),
        ScoreLeaf::KeySpread { first, size } => {
            Ok(spreads::of_heads(&seen.keys()?, (tokens, seen.head_dim_k()), (first, size)))
        }
        ScoreLeaf::ValueSpread { first, size } => {
            Ok(spreads::of_heads(&seen.values()?, (tokens, seen.head_dim_v()), (first, size)))
        }
        ScoreLeaf::FrameSaliency => frames::saliency(seen),
        ScoreLeaf::FrameGate { kept } => frames::open(seen, kept),
        ScoreLeaf::BlockMeanLogit { first, size, queries } => {
            let blocks = leaf.columns(tokens);
            let logits = block_logits(seen, BlockGrid { first, size }, (queries, blocks))?;
            Ok(logits.into_iter().flatten().map(|x| x as f32).collect())
        }
        _ => Err(ScoreError::Missing { what: "this leaf of a score on the host" }),
    }
}
