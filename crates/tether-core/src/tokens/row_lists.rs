//! Rows that are made of others, and rows that stand for many.

use super::TokenEngine;
use crate::{CoreError, checks};

/// Which rows of a pool are averaged: mean `i` is over entries `starts[i]..starts[i + 1]`, each a row and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLists<'a> {
    /// Where each list begins, and where the last one ends: one number more than lists.
    pub starts: &'a [u32],
    /// Rows of the pool.
    pub rows: &'a [u32],
    /// How much each of them counts.
    pub weights: &'a [f32],
}

impl RowLists<'_> {
    /// Lists.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// True when there is no list.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of the longest list.
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// Lists fit their entries, and entries a pool of `pool_rows` rows.
    ///
    /// # Errors
    /// [`CoreError::Count`], [`CoreError::Geometry`] for starts that do not ascend.
    pub fn check(&self, pool_rows: usize) -> Result<(), CoreError> {
        checks::count("weights of rows", self.rows.len(), self.weights.len())?;
        checks::setting(!self.starts.is_empty(), "starts", 0, "must end with the number of rows")?;
        checks::count("first start of a list of rows", 0, self.starts[0] as usize)?;
        let end = self.starts.last().map_or(0, |&end| end as usize);
        checks::count("rows of lists", end, self.rows.len())?;
        if let Some(pair) = self.starts.windows(2).find(|pair| pair[0] > pair[1]) {
            let (field, value) = ("starts", pair[1] as usize);
            return Err(CoreError::Geometry { field, value, requirement: "must not descend" });
        }
        let bound = self.rows.iter().max().map_or(0, |&row| row as usize + 1);
        if bound > pool_rows {
            return Err(CoreError::Count { what: "rows", expected: bound, got: pool_rows });
        }
        Ok(())
    }
}

/// One more token of each key head, which stands for several: its logit is raised by the logarithm of how many (`RazorAttention`,
/// arXiv:2407.15891).
#[derive(Debug)]
pub struct StandIns<'a, E: TokenEngine> {
    /// Keys, `f32` `[kv_heads, head_dim_k]`.
    pub keys: &'a E::Tensor,
    /// Values, `f32` `[kv_heads, head_dim_v]`.
    pub values: &'a E::Tensor,
    /// What is added to each logit, `f32` `[kv_heads]`; [`super::EMPTY_LSE`] for a head that has none.
    pub biases: &'a E::Tensor,
}

/// Extents of attention to stand-ins, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandInProblem {
    /// Key heads.
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Channels of a key.
    pub head_dim_k: usize,
    /// Channels of a value.
    pub head_dim_v: usize,
}

impl StandInProblem {
    /// From the shapes of queries `[tokens, query_heads, head_dim_k]`, of the output and the log-sum-exps, of keys, values and biases; `tokens` are those of the
    /// queries that attend.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for heads that do not group evenly, [`CoreError::Count`] for tokens that are not there.
    pub fn new(
        q: &[usize],
        (out, lse): (&[usize], &[usize]),
        (keys, values, biases): (&[usize], &[usize], &[usize]),
        tokens: &std::ops::Range<usize>,
    ) -> Result<Self, CoreError> {
        let mismatch = |what, expected: &[usize], got: &[usize]| {
            Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() })
        };
        let &[all, query_heads, head_dim_k] = q else { return mismatch("q", &[0, 0, 0], q) };
        let &[kv_heads] = biases else { return mismatch("biases of stand-ins", &[0], biases) };
        let head_dim_v = values.last().copied().unwrap_or(0);
        for (what, expected, got) in [
            ("keys of stand-ins", &[kv_heads, head_dim_k][..], keys),
            ("values of stand-ins", &[kv_heads, head_dim_v], values),
            ("out", &[all, query_heads, head_dim_v], out),
            ("log-sum-exps", &[all, query_heads], lse),
        ] {
            if got != expected {
                return mismatch(what, expected, got);
            }
        }
        let even = kv_heads > 0 && query_heads.is_multiple_of(kv_heads);
        checks::setting(even, "query_heads", query_heads, "must be a multiple of kv_heads")?;
        if tokens.start > tokens.end || tokens.end > all {
            return Err(CoreError::Count { what: "tokens of queries", expected: tokens.end, got: all });
        }
        Ok(Self { kv_heads, group: query_heads / kv_heads, head_dim_k, head_dim_v })
    }
}

/// Rows of pools of which some leave: their values join those of the rows that stay whose keys are most like theirs.
///
/// A leaving row goes to the row with the highest cosine of their keys, of equal ones the first, by the weight
/// `max(cosine, 0) |v| / (|v| + |v of that row| + 1e-6)`; a row that others join becomes `(v + sum of w v_e) / (1 +
/// sum of w)`.
#[derive(Debug)]
pub struct SimilarRows<'a, E: TokenEngine> {
    /// Pool of keys.
    pub keys: &'a E::Tensor,
    /// Pool of values.
    pub values: &'a E::Tensor,
    /// Rows that stay, `[kept]`.
    pub kept: &'a E::Indices,
    /// Rows that leave, `[leaving]`.
    pub leaving: &'a E::Indices,
    /// Rows that are less like any are gone.
    pub threshold: f32,
    /// Rows that join at most: the most alike, of equal ones the first.
    pub most: usize,
}

impl<E: TokenEngine> Clone for SimilarRows<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: TokenEngine> Copy for SimilarRows<'_, E> {}

impl<E: TokenEngine> SimilarRows<'_, E> {
    /// Rows are lists.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn check(&self, kept: &[usize], leaving: &[usize]) -> Result<(), CoreError> {
        for (what, got) in [("rows that stay", kept), ("rows that leave", leaving)] {
            if got.len() != 1 {
                return Err(CoreError::ShapeMismatch { what, expected: [0].into(), got: got.into() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_checked() {
        let lists = RowLists { starts: &[0, 2, 2, 3], rows: &[4, 0, 1], weights: &[1.0; 3] };
        assert!(lists.check(5).is_ok());
        assert_eq!((lists.len(), lists.longest()), (3, 2));
        for wrong in [
            RowLists { weights: &[1.0], ..lists },
            RowLists { starts: &[], ..lists },
            RowLists { starts: &[1, 3], ..lists },
            RowLists { starts: &[0, 2], ..lists },
            RowLists { starts: &[0, 3, 1, 3], ..lists },
        ] {
            assert!(wrong.check(5).is_err(), "{wrong:?}");
        }
        assert!(matches!(lists.check(4), Err(CoreError::Count { what: "rows", expected: 5, got: 4 })));
    }
}
