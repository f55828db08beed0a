//! Leaves of keys and of where tokens stand in frames.

use tether_core::TokenGrid;
use tether_dense::{MatRef, matmul};

use crate::ScoreError;
use crate::tokens::scorers::norm;
use crate::tokens::{GridPlace, TokenObservation, spatial_saliency, token_grid};

/// One less the mean likeness of visual tokens to their neighbours, the same for all heads.
pub(super) fn saliency(seen: &dyn TokenObservation) -> Result<Vec<f32>, ScoreError> {
    let features = Features::of(seen)?;
    Ok(spatial_saliency(seen.grid()?, |a, b| features.cosine(a, b)).repeat(seen.kv_heads()))
}

/// 1 for tokens that pass and 0 for the others, the same for all heads.
pub(super) fn open(seen: &dyn TokenObservation, kept: usize) -> Result<Vec<f32>, ScoreError> {
    let open = gate(seen.grid()?, &Features::of(seen)?, kept);
    Ok(open.into_iter().map(|open| f32::from(u8::from(open))).collect::<Vec<_>>().repeat(seen.kv_heads()))
}

/// Unit vectors of tokens, `[tokens, dim]`.
struct Features {
    dim: usize,
    rows: Vec<f32>,
}

impl Features {
    fn of(seen: &dyn TokenObservation) -> Result<Self, ScoreError> {
        let (tokens, dim, heads) = (seen.tokens(), seen.head_dim_k(), seen.kv_heads());
        let keys = seen.raw_keys()?;
        let mut rows = Vec::with_capacity(tokens * dim * heads);
        for token in 0..tokens {
            let start = rows.len();
            for head in 0..heads {
                rows.extend_from_slice(&keys[(head * tokens + token) * dim..][..dim]);
            }
            let length = norm(&rows[start..]).max(1e-12);
            rows[start..].iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        Ok(Self { dim: dim * heads, rows })
    }

    fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.dim..][..self.dim]
    }

    fn cosine(&self, a: usize, b: usize) -> f32 {
        let pairs = self.row(a).iter().zip(self.row(b));
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
    }
}

/// Which tokens pass: all text, all of the last frame, and of older frames the `budget` tokens that are least like
/// any of the last frame, with those that are equally like.
fn gate(grid: &[Option<GridPlace>], features: &Features, budget: usize) -> Vec<bool> {
    let TokenGrid { newest: now, older: before, .. } = token_grid(grid);
    let mut open = vec![true; grid.len()];
    if before.len() <= budget || now.is_empty() {
        return open;
    }
    let gathered =
        |set: &[u32]| set.iter().flat_map(|&t| features.row(t as usize)).copied().collect::<Vec<f32>>();
    let (current, past, dim) = (gathered(&now), gathered(&before), features.dim);
    let mut likeness = vec![0f32; before.len() * now.len()];
    let columns = MatRef::row_major(&current, now.len(), dim, dim).transposed();
    matmul(&mut likeness, now.len(), 0.0, MatRef::row_major(&past, before.len(), dim, dim), columns);
    let nearest: Vec<f32> = likeness
        .chunks_exact(now.len())
        .map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max))
        .collect();
    let mut sorted = nearest.clone();
    sorted.sort_by(f32::total_cmp);
    let limit = sorted[budget.max(1) - 1];
    before.iter().zip(&nearest).filter(|(_, n)| **n > limit).for_each(|(&t, _)| open[t as usize] = false);
    open
}
