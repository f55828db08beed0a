//! What a page can be worth at most.

use serde::{Deserialize, Serialize};
use tether_part::Settings;

use crate::ScoreError;
use crate::tokens::attention::group;
use crate::tokens::scorer::at_least;
use crate::tokens::{HeadScores, Needs, Protected, ScoreRequest, ScoreTokens, TokenObservation};

/// The largest logit that any key within a page's bounds can have, `sum of max(q_c low_c, q_c high_c)`, for the last query, summed over the
/// query heads of a key head (arXiv:2406.10774). All tokens of a page have its score. A method of reading: what is not read stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageBounds {
    /// Tokens of a page.
    pub page: usize,
}

impl Settings for PageBounds {
    const KIND: &'static str = "page-bounds";
}

impl Default for PageBounds {
    fn default() -> Self {
        Self { page: 16 }
    }
}

/// Lowest and highest number of each channel over pages of `page` rows of `keys` `[tokens, dim]`: `[pages, 2, dim]`.
pub fn page_bounds(keys: &[f32], dim: usize, page: usize) -> Vec<f32> {
    let mut bounds = Vec::with_capacity(keys.len().div_ceil(page.max(1)) * 2);
    for rows in keys.chunks((page * dim).max(1)) {
        let mut low = rows[..dim].to_vec();
        let mut high = low.clone();
        for row in rows.chunks_exact(dim) {
            low.iter_mut().zip(row).for_each(|(l, &x)| *l = l.min(x));
            high.iter_mut().zip(row).for_each(|(h, &x)| *h = h.max(x));
        }
        bounds.extend(low);
        bounds.extend(high);
    }
    bounds
}

impl ScoreTokens for PageBounds {
    fn validate(&self) -> Result<(), ScoreError> {
        at_least("score.page", self.page, 1)
    }

    fn needs(&self) -> Needs {
        Needs { last_queries: 1, page_bounds: self.page, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protected {
        Protected { sink: 0, recent: 1 }
    }

    fn page_bounds(&self) -> Option<usize> {
        Some(self.page)
    }

    fn score(&self, seen: &dyn TokenObservation, _: ScoreRequest) -> Result<HeadScores, ScoreError> {
        let (tokens, dim, group) = (seen.tokens(), seen.head_dim_k(), group(seen)?);
        let queries = seen.queries(1)?;
        let mut scores = Vec::with_capacity(seen.kv_heads() * tokens);
        for head in 0..seen.kv_heads() {
            let bounds = seen.page_bounds(head, self.page)?;
            let queries = &queries[head * group * dim..][..group * dim];
            for (page, bounds) in bounds.chunks_exact(2 * dim).enumerate() {
                let (low, high) = bounds.split_at(dim);
                let bound = |q: &[f32]| -> f64 {
                    let channels = q.iter().zip(low.iter().zip(high));
                    channels.map(|(&q, (&l, &h))| f64::from((q * l).max(q * h))).sum()
                };
                let total = queries.chunks_exact(dim).map(bound).sum::<f64>() / (dim as f64).sqrt();
                let len = self.page.min(tokens - page * self.page);
                scores.extend(std::iter::repeat_n(total as f32, len));
            }
        }
        HeadScores::new(seen.kv_heads(), tokens, scores)
    }
}
