//! Screenshots: saliency in space, a gate in time.

use serde::{Deserialize, Serialize};
use tether_dense::{MatRef, matmul};
use tether_part::{Kinds, PartError, Settings, SettingsTable};

use super::SnapKv;
use super::keydiff::norm;
use crate::ScoreError;
use crate::tokens::{
    GridPlace, HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation, TokenScorer,
};

/// A base score, scaled to at most 1; for visual tokens plus the saliency of their place, and 0 for tokens of older frames that the last frame
/// repeats (arXiv:2603.00188). Likeness is measured on keys before the rotation, over all heads together; over each head alone once they hold
/// different tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StLite {
    /// The base scorer.
    pub base: TokenScorer,
}

impl Settings for StLite {
    const KIND: &'static str = "st-lite";
}

impl Default for StLite {
    fn default() -> Self {
        Self { base: SnapKv { window: 32, ..SnapKv::default() }.into_part() }
    }
}

impl ScoreTokens for StLite {
    fn validate(&self) -> Result<(), ScoreError> {
        self.base.validate()
    }

    fn needs(&self) -> Needs {
        self.base.needs().and(Needs { raw_keys: true, grid: true, ..Needs::default() })
    }

    fn protects(&self, kept: usize) -> Protected {
        self.base.protects(kept)
    }

    fn separates_query_heads(&self) -> bool {
        self.base.separates_query_heads()
    }

    fn score(&self, seen: &dyn TokenObservation, request: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let base = self.base.score(seen, request)?;
        let (tokens, heads) = (seen.tokens(), base.heads());
        let grid = seen.grid()?;
        let features = Features::of(seen)?;
        let saliency = spatial_saliency(grid, |a, b| features.cosine(a, b));
        let open = gate(grid, &features, request.kept);
        // Protected tokens stand above the others by 1, which must not decide what 1 is.
        let protected = self.base.protects(request.kept).within(request.kept, tokens);
        let free = |t: &usize| !protected.holds(*t, tokens);
        let mut values = Vec::with_capacity(heads * tokens);
        for row in base.rows() {
            let top = (0..tokens).filter(free).map(|t| row[t]).fold(0.0, f32::max).max(f32::MIN_POSITIVE);
            values.extend((0..tokens).map(|t| match grid[t] {
                None => row[t] / top,
                Some(_) if open[t] => row[t] / top + saliency[t],
                Some(_) => 0.0,
            }));
        }
        HeadScores::new(heads, tokens, values)
    }

    fn read(mut settings: SettingsTable, kinds: &Kinds<dyn ScoreTokens>) -> Result<Self, PartError> {
        let base = settings.take_part("base", kinds)?;
        let own: Self = settings.read()?;
        Ok(Self { base: base.unwrap_or(own.base) })
    }
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

/// One less the mean likeness of a visual token to its neighbours in the frame, up to eight; 0 for text and for a token without neighbours.
pub fn spatial_saliency(grid: &[Option<GridPlace>], cosine: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let at: std::collections::BTreeMap<(u32, u32, u32), usize> = grid
        .iter()
        .enumerate()
        .filter_map(|(t, place)| place.map(|p| ((p.frame, p.row, p.column), t)))
        .collect();
    let around = |n: u32| n.saturating_sub(1)..=n.saturating_add(1);
    let saliency = |token: usize| -> f32 {
        let Some(place) = grid[token] else { return 0.0 };
        let (mut sum, mut count) = (0.0, 0);
        for row in around(place.row) {
            for column in around(place.column) {
                match at.get(&(place.frame, row, column)) {
                    Some(&other) if other != token => {
                        sum += cosine(token, other);
                        count += 1;
                    }
                    _ => {}
                }
            }
        }
        if count == 0 { 0.0 } else { 1.0 - sum / count as f32 }
    };
    (0..grid.len()).map(saliency).collect()
}

/// Which tokens pass: all text, all of the last frame, and of older frames the `budget` tokens that are least like any of the last frame,
/// with those that are equally like.
fn gate(grid: &[Option<GridPlace>], features: &Features, budget: usize) -> Vec<bool> {
    let last = grid.iter().flatten().map(|p| p.frame).max();
    let of = |current: bool| -> Vec<usize> {
        let matching = |t: &usize| grid[*t].is_some_and(|p| (Some(p.frame) == last) == current);
        (0..grid.len()).filter(matching).collect()
    };
    let (now, before) = (of(true), of(false));
    let mut open = vec![true; grid.len()];
    if before.len() <= budget || now.is_empty() {
        return open;
    }
    let gathered = |set: &[usize]| set.iter().flat_map(|&t| features.row(t)).copied().collect::<Vec<f32>>();
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
    before.iter().zip(&nearest).filter(|(_, n)| **n > limit).for_each(|(&t, _)| open[t] = false);
    open
}
