//! Which pages a token reads: those whose bounds allow the largest logits.

use std::ops::Range;

use super::{PageLists, TokenEngine};
use crate::{CoreError, DType, Shape, checks};

/// A token's choice among the pages of its key heads.
///
/// Pages are chosen in runs of [`PageChoice::run`], those of which [`PageChoice::between`] says so; all others are read whatever they hold.
#[derive(Debug)]
pub struct PageChoice<'a, E: TokenEngine> {
    /// Rotated queries of the token, `[1, query_heads, head_dim_k]`.
    pub q: &'a E::Tensor,
    /// Lowest and highest numbers of pages, `[pages, 1, 2, head_dim]`, as [`TokenEngine::write_page_bounds`] writes
    /// them: those of the pages to choose from.
    pub bounds: &'a E::Tensor,
    /// The page table.
    pub table: &'a E::PageTable,
    /// A list for each key head, equally long, one head a page.
    pub lists: &'a PageLists<'a>,
    /// Pages that are read together.
    pub run: usize,
    /// Runs to choose from, all whole.
    pub between: Range<usize>,
    /// Runs that are chosen.
    pub count: usize,
}

/// Extents of a choice, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageChoiceProblem {
    /// Key heads.
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Channels of a key.
    pub dim: usize,
    /// Runs to choose from.
    pub candidates: usize,
    /// Pages of a list that are read.
    pub pages: usize,
    /// Tokens of a list that are read.
    pub tokens: usize,
}

impl<E: TokenEngine> PageChoice<'_, E> {
    /// From the shapes of the queries and the bounds.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::DTypeMismatch`], [`CoreError::Geometry`] for runs of no pages and heads that do not group evenly,
    /// [`CoreError::Count`] for lists of unequal length, runs that are not whole, and more that are chosen than there are.
    pub fn check(
        &self,
        (q, dtype): (&[usize], DType),
        bounds: (&[usize], DType),
    ) -> Result<PageChoiceProblem, CoreError> {
        let lists = self.lists;
        let kv_heads = lists.lengths.len();
        checks::setting(self.run > 0, "run", 0, "must be at least 1")?;
        checks::setting(lists.page_size > 0, "page_size", 0, "must be at least 1")?;
        checks::count("lists of a choice", lists.groups, kv_heads)?;
        checks::count("starts of lists", kv_heads, lists.starts.len())?;
        let length = checks::equally_long(lists.lengths)?;
        let (query_heads, dim) = match (q, bounds.0) {
            (&[1, heads, dim], &[_, 1, 2, of_bounds]) if dim == of_bounds => (heads, dim),
            _ => {
                let expected: Shape = [1, kv_heads, bounds.0.last().copied().unwrap_or(0)].as_slice().into();
                let (expected, got) = (expected.as_slice().into(), q.into());
                return Err(CoreError::ShapeMismatch { what: "q", expected, got });
            }
        };
        if dtype != bounds.1 {
            return Err(CoreError::DTypeMismatch { what: "q", expected: bounds.1, got: dtype });
        }
        let even = kv_heads > 0 && query_heads.is_multiple_of(kv_heads);
        checks::setting(even, "query_heads", query_heads, "must be a multiple of kv_heads")?;
        let whole = length / (self.run * lists.page_size);
        if self.between.start > self.between.end || self.between.end > whole {
            let (expected, got) = (self.between.end, whole);
            return Err(CoreError::Count { what: "whole runs of pages", expected, got });
        }
        let candidates = self.between.len();
        if self.count > candidates {
            return Err(CoreError::Count { what: "candidates", expected: self.count, got: candidates });
        }
        let left = (candidates - self.count) * self.run;
        Ok(PageChoiceProblem {
            kv_heads,
            group: query_heads / kv_heads,
            dim,
            candidates,
            pages: length.div_ceil(lists.page_size) - left,
            tokens: length - left * lists.page_size,
        })
    }
}

/// Bounds are those of parts of the pages of a pool of keys `[pages, page_size, 1, head_dim]`: `[pages, parts, 2,
/// head_dim]` in its dtype. Tokens of a part.
///
/// # Errors
/// [`CoreError::ShapeMismatch`], [`CoreError::DTypeMismatch`], [`CoreError::Geometry`] for parts that do not divide a
/// page.
pub fn check_bounds(keys: (&[usize], DType), bounds: (&[usize], DType)) -> Result<usize, CoreError> {
    let mismatch = |what, expected: [usize; 4], got: &[usize]| {
        let expected: Shape = expected.as_slice().into();
        Err(CoreError::ShapeMismatch { what, expected: expected.as_slice().into(), got: got.into() })
    };
    let &[pages, size, 1, dim] = keys.0 else { return mismatch("keys", [0, 0, 1, 0], keys.0) };
    let parts = match *bounds.0 {
        [of, parts, 2, d] if (of, d) == (pages, dim) => parts,
        _ => return mismatch("bounds of pages", [pages, 1, 2, dim], bounds.0),
    };
    let whole = parts > 0 && size.is_multiple_of(parts);
    checks::setting(whole, "parts", parts, "must divide a page")?;
    if bounds.1 != keys.1 {
        return Err(CoreError::DTypeMismatch { what: "bounds of pages", expected: keys.1, got: bounds.1 });
    }
    Ok(size / parts)
}
