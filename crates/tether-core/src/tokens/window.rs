//! Observation-window scores: what the last queries of a prompt attend to.

use serde::{Deserialize, Serialize};

use crate::CoreError;

/// How scores are smoothed along the tokens. A window is centred and its size odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// Not at all.
    None,
    /// Mean over a window, places outside the prompt counting as 0 (the divisor is always the size).
    Mean(usize),
    /// Largest in the window, places outside the prompt not counting.
    Max(usize),
}

impl Pool {
    /// Places of the window.
    pub fn size(self) -> usize {
        match self {
            Self::None => 1,
            Self::Mean(size) | Self::Max(size) => size,
        }
    }

    /// A row, smoothed.
    pub fn smoothed(self, row: &[f32]) -> Vec<f32> {
        let half = self.size() / 2;
        let smooth = |i: usize| {
            let around = &row[i.saturating_sub(half)..row.len().min(i + half + 1)];
            match self {
                Self::Max(_) => around.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                Self::Mean(size) => around.iter().sum::<f32>() / size as f32,
                Self::None => row[i],
            }
        };
        (0..row.len()).map(smooth).collect()
    }
}

/// Observation-window scoring (`SnapKV`, arXiv:2404.14469).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowSpec {
    /// Multiplies `q.k`; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Smoothing.
    pub pool: Pool,
}

/// Extents of one scoring, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowProblem {
    /// Queries of the window: they stand at the last tokens and see what is not after them.
    pub window: usize,
    /// Tokens, the window's included.
    pub tokens: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

impl WindowProblem {
    /// From the shapes of `q` `[query_heads, window, head_dim]` and `k` `[kv_heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for heads that do not group evenly, an empty window or one longer than the
    /// prompt, or a smoothing window that is even or 0.
    pub fn new(q: &[usize], k: &[usize], spec: &WindowSpec) -> Result<Self, CoreError> {
        let &[kv_heads, tokens, head_dim] = k else {
            return Err(CoreError::ShapeMismatch { what: "k", expected: [0, 0, 0].into(), got: k.into() });
        };
        let &[query_heads, window, query_dim] = q else {
            let expected = [kv_heads, 0, head_dim].into();
            return Err(CoreError::ShapeMismatch { what: "q", expected, got: q.into() });
        };
        if query_dim != head_dim {
            let expected = [query_heads, window, head_dim].into();
            return Err(CoreError::ShapeMismatch { what: "q", expected, got: q.into() });
        }
        let geometry = |field, value, requirement| Err(CoreError::Geometry { field, value, requirement });
        if kv_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            return geometry("query_heads", query_heads, "must be a multiple of kv_heads");
        }
        if window == 0 || window > tokens {
            return geometry("window", window, "must be at least 1 and at most the prompt");
        }
        if spec.pool.size().is_multiple_of(2) {
            return geometry("pool", spec.pool.size(), "must be odd");
        }
        if !spec.scale.is_finite() {
            return Err(CoreError::NonFinite { what: "scale", index: 0 });
        }
        Ok(Self { window, tokens, kv_heads, group: query_heads / kv_heads, head_dim })
    }

    /// Tokens that get a score: those before the window.
    pub fn prefix(&self) -> usize {
        self.tokens - self.window
    }
}
