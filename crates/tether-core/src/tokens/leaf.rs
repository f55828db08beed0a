//! What a backend is asked to work out of keys, values and queries so that tokens can be scored: the leaves of score expressions.

use serde::{Deserialize, Serialize};

use super::{Pool, TokenEngine};
use crate::{CoreError, DType, Shape, checks};

/// One number for each token of each key head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ScoreLeaf {
    /// Attention that each token before the last `queries` gets from their queries: averaged over them, smoothed along the tokens, then averaged over
    /// the query heads of a key head (`SnapKV`, arXiv:2404.14469).
    WindowAttention {
        /// Last tokens whose queries are asked; they have no score of their own.
        queries: usize,
        /// Smoothing along the tokens.
        smoothing: Pool,
    },
    /// Attention that each token got from all queries so far, averaged over the query heads of a key head (H2O, arXiv:2306.14048).
    AttentionSums,
    /// Length of the key.
    KeyNorm,
    /// Length of the value.
    ValueNorm,
    /// Cosine of the key and the mean direction of all keys of the head (arXiv:2504.15364).
    KeyMeanCosine,
    /// Mean logit that the last `queries` tokens' queries give the key, over them and over the query heads of a key head.
    MeanLogit {
        /// Last tokens whose queries are asked.
        queries: usize,
    },
}

impl ScoreLeaf {
    /// Last queries that it asks.
    pub fn queries(&self) -> usize {
        match *self {
            Self::WindowAttention { queries, .. } | Self::MeanLogit { queries } => queries,
            Self::AttentionSums | Self::KeyNorm | Self::ValueNorm | Self::KeyMeanCosine => 0,
        }
    }

    /// Tokens that get a number, of `tokens`.
    pub fn columns(&self, tokens: usize) -> usize {
        match *self {
            Self::WindowAttention { queries, .. } => tokens.saturating_sub(queries),
            _ => tokens,
        }
    }
}

/// Key heads of one layer that hold equally many tokens.
#[derive(Debug)]
pub struct ObservedLayer<'a, E: TokenEngine> {
    /// Pool of rotated keys, `[pages, page_size, page_heads, head_dim_k]`.
    pub k: &'a E::Tensor,
    /// Pool of values.
    pub v: &'a E::Tensor,
    /// Attention that rows got so far, `f32` `[pages, page_size, page_heads, group]`.
    pub sums: Option<&'a E::Tensor>,
    /// Rows of the pools, those of a head in the order of their positions: `[kv_heads, tokens]`.
    pub rows: &'a E::Indices,
    /// Rotated queries of the last tokens, `[query_heads, n, head_dim_k]`, as many as the leaf asks.
    pub queries: Option<&'a E::Tensor>,
    /// Multiplies `q.k`.
    pub scale: f32,
}

/// Extents of a leaf, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafProblem {
    /// Key heads.
    pub kv_heads: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Query heads of a key head; 1 where no queries are asked.
    pub group: usize,
    /// Channels of a key, or of a value where that is asked.
    pub dim: usize,
}

impl LeafProblem {
    /// From the shapes of the rows `[kv_heads, tokens]`, of the pools and of the queries.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for heads that do not group evenly, [`CoreError::Count`] for missing queries or sums, and for other
    /// queries than the leaf asks.
    pub fn new(
        leaf: &ScoreLeaf,
        rows: &[usize],
        (k, v): (&[usize], &[usize]),
        sums: Option<(&[usize], DType)>,
        queries: Option<&[usize]>,
    ) -> Result<Self, CoreError> {
        let &[kv_heads, tokens] = rows else {
            return Err(CoreError::ShapeMismatch { what: "rows", expected: [0, 0].into(), got: rows.into() });
        };
        let pool = if *leaf == ScoreLeaf::ValueNorm { v } else { k };
        let dim = pool.last().copied().unwrap_or(0);
        let mut problem = Self { kv_heads, tokens, group: 1, dim };
        if *leaf == ScoreLeaf::AttentionSums {
            let (shape, dtype) =
                sums.ok_or(CoreError::Count { what: "sums of attention", expected: 1, got: 0 })?;
            problem.group = shape.last().copied().unwrap_or(0);
            if dtype != DType::F32 {
                let (what, expected) = ("sums of attention", DType::F32);
                return Err(CoreError::DTypeMismatch { what, expected, got: dtype });
            }
        }
        let asked = leaf.queries();
        if asked > 0 {
            let missing = CoreError::Count { what: "queries", expected: asked, got: 0 };
            let shape = queries.ok_or(missing)?;
            let heads = match *shape {
                [heads, n, d] if n == asked && d == dim => heads,
                _ => {
                    let expected: Shape = [kv_heads, asked, dim].as_slice().into();
                    return Err(CoreError::ShapeMismatch {
                        what: "queries",
                        expected: expected.as_slice().into(),
                        got: shape.into(),
                    });
                }
            };
            let even = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
            checks::setting(even, "query_heads", heads, "must be a multiple of kv_heads")?;
            let within = asked <= tokens;
            checks::setting(within, "queries", asked, "must be at most the tokens there are")?;
            problem.group = heads / kv_heads;
        }
        Ok(problem)
    }
}
