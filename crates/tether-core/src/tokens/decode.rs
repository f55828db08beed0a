//! Paged decode attention: one query token per sequence over keys and values in pages.

use crate::{CoreError, DType};

/// Log-sum-exp of a sequence without tokens; its output is 0. Finite, because infinities do not survive every GPU compiler.
pub const EMPTY_LSE: f32 = -1e30;

/// Which pages hold which tokens, per head group and sequence.
///
/// A page holds `page_size` tokens of the heads of one group, so with one group of all heads this is classic paging, and with one
/// group per head each head keeps tokens of its own. Pages of group `g` and sequence `s` are
/// `pages[indptr[i]..indptr[i + 1]]` with `i = g * sequences + s`, of which the first `lengths[i]` tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTables<'a> {
    /// Tokens of a page.
    pub page_size: usize,
    /// Groups of key heads.
    pub groups: usize,
    /// Where each list of pages begins; one entry more than lists.
    pub indptr: &'a [u32],
    /// Page numbers.
    pub pages: &'a [u32],
    /// Tokens of each list.
    pub lengths: &'a [u32],
}

impl BlockTables<'_> {
    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.lengths.len() / self.groups.max(1)
    }

    /// Tokens of the longest list.
    pub fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0) as usize
    }

    /// One more than the largest page number.
    pub fn page_bound(&self) -> usize {
        self.pages.iter().copied().max().map_or(0, |p| p as usize + 1)
    }

    /// Checks the tables against themselves.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a size of 0, [`CoreError::Count`] for lists that do not fit or that hold fewer pages than their
    /// tokens need.
    pub fn check(&self) -> Result<(), CoreError> {
        for (field, value) in [("page_size", self.page_size), ("groups", self.groups)] {
            if value == 0 {
                return Err(CoreError::Geometry { field, value, requirement: "must be at least 1" });
            }
        }
        if !self.lengths.len().is_multiple_of(self.groups) {
            let (value, requirement) = (self.lengths.len(), "must be a multiple of groups");
            return Err(CoreError::Geometry { field: "lengths", value, requirement });
        }
        crate::checks::count("indptr", self.lengths.len() + 1, self.indptr.len())?;
        for (bounds, &length) in self.indptr.windows(2).zip(self.lengths) {
            let needed = (length as usize).div_ceil(self.page_size);
            let got = bounds[1].checked_sub(bounds[0]).map_or(0, |n| n as usize);
            if got < needed || bounds[1] < bounds[0] {
                return Err(CoreError::Count { what: "pages of a list", expected: needed, got });
            }
        }
        let end = self.indptr.last().map_or(0, |&end| end as usize);
        if end > self.pages.len() {
            return Err(CoreError::Count { what: "pages", expected: end, got: self.pages.len() });
        }
        Ok(())
    }
}

/// Extents of a decode step, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeProblem {
    /// Sequences.
    pub sequences: usize,
    /// Key heads, over all groups.
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Channels of a key head.
    pub head_dim_k: usize,
    /// Channels of a value head.
    pub head_dim_v: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Key heads in a page.
    pub page_heads: usize,
    /// Pages of the pool.
    pub pool_pages: usize,
}

impl DecodeProblem {
    /// From the shapes of `q` `[sequences, query_heads, head_dim_k]`, `k` `[pages, page_size, page_heads, head_dim_k]`, `v`
    /// `[pages, page_size, page_heads, head_dim_v]`, and the extents of the tables.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::Geometry`] for query heads that do not group evenly, [`CoreError::Count`] for pages
    /// outside the pool.
    pub fn new(
        q: &[usize],
        k: &[usize],
        v: &[usize],
        (page_size, groups, sequences): (usize, usize, usize),
        page_bound: usize,
    ) -> Result<Self, CoreError> {
        let &[pool_pages, got_size, page_heads, head_dim_k] = k else {
            let expected = [page_bound, page_size, 0, 0].into();
            return Err(CoreError::ShapeMismatch { what: "k", expected, got: k.into() });
        };
        if got_size != page_size {
            let expected = [pool_pages, page_size, page_heads, head_dim_k].into();
            return Err(CoreError::ShapeMismatch { what: "k", expected, got: k.into() });
        }
        let head_dim_v = match *v {
            [a, b, c, dim] if [a, b, c] == [pool_pages, page_size, page_heads] => dim,
            _ => {
                let expected = [pool_pages, page_size, page_heads, head_dim_k].into();
                return Err(CoreError::ShapeMismatch { what: "v", expected, got: v.into() });
            }
        };
        let kv_heads = page_heads * groups;
        let query_heads = match *q {
            [a, heads, dim] if a == sequences && dim == head_dim_k => heads,
            _ => {
                let expected = [sequences, kv_heads, head_dim_k].into();
                return Err(CoreError::ShapeMismatch { what: "q", expected, got: q.into() });
            }
        };
        if kv_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            let requirement = "must be a multiple of kv_heads";
            return Err(CoreError::Geometry { field: "query_heads", value: query_heads, requirement });
        }
        if page_bound > pool_pages {
            return Err(CoreError::Count {
                what: "pages of the pool",
                expected: page_bound,
                got: pool_pages,
            });
        }
        let group = query_heads / kv_heads;
        Ok(Self { sequences, kv_heads, group, head_dim_k, head_dim_v, page_size, page_heads, pool_pages })
    }

    /// Query heads.
    pub fn query_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// All dtypes of a decode step agree.
    ///
    /// # Errors
    /// [`CoreError::DTypeMismatch`] names the one that differs from `q`'s.
    pub fn same_dtype(q: DType, k: DType, v: DType) -> Result<(), CoreError> {
        for (what, got) in [("k", k), ("v", v)] {
            if got != q {
                return Err(CoreError::DTypeMismatch { what, expected: q, got });
            }
        }
        Ok(())
    }
}
