//! Leaves of values under an output projection.

use rayon::prelude::*;
use tether_dense::{MatRef, matmul};

use crate::ScoreError;
use crate::tokens::TokenObservation;
use crate::tokens::attention::{group, group_mean};

/// `|W_o v|_1` of every token, averaged over the query heads of a key head: `[kv_heads, tokens]`.
pub(super) fn projected_norms(seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
    let (tokens, dim, heads) = (seen.tokens(), seen.head_dim_v(), seen.query_heads());
    let group = group(seen)?;
    let (values, weights) = (seen.values()?, seen.output_projection()?);
    let inner = heads * dim;
    let hidden = weights.len() / inner.max(1);
    let mut norms = vec![0f32; heads * tokens];
    norms.par_chunks_exact_mut(tokens.max(1)).enumerate().for_each(|(head, norms)| {
        let values = &values[head / group * tokens * dim..][..tokens * dim];
        let weights = MatRef::row_major(&weights[head * dim..], hidden, dim, inner).transposed();
        const BLOCK: usize = 64;
        let mut projected = vec![0f32; BLOCK * hidden];
        for (norms, values) in norms.chunks_mut(BLOCK).zip(values.chunks(BLOCK * dim)) {
            let rows = norms.len();
            matmul(&mut projected, hidden, 0.0, MatRef::row_major(values, rows, dim, dim), weights);
            for (norm, row) in norms.iter_mut().zip(projected.chunks_exact(hidden.max(1))) {
                *norm = row.iter().map(|&x| f64::from(x.abs())).sum::<f64>() as f32;
            }
        }
    });
    Ok(group_mean(&norms, seen.kv_heads(), heads, tokens))
}
