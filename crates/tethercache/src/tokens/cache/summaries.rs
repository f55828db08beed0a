//! What is told of pages of keys when they are written, so that choosing between pages reads no old key again.

use tether_rope::{Angles, RopeError, TokenRope, turned};
use tether_score::tokens::{BlockGrid, Needs};

/// Which summaries a recipe reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Tokens of a page whose bounds are kept; 0 for none.
    pub page: usize,
    /// Blocks whose mean keys before the rotation are kept.
    pub means: Option<BlockGrid>,
}

impl Wanted {
    /// What a recipe needs that retains what it does not read. Where tokens leave, pages do not stay what they are.
    pub(super) fn of(needs: Needs, retain: bool) -> Self {
        if retain { Self { page: needs.page_bounds, means: needs.block_means } } else { Self::default() }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Summaries of one layer of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Summaries {
    tokens: usize,
    /// For each key head the lowest and highest numbers of its pages, `[pages, 2, dim]`.
    bounds: Vec<Vec<f32>>,
    /// For each key head the sums of its blocks' keys before the rotation, `[blocks, dim]`.
    sums: Vec<Vec<f32>>,
}

/// Where summaries were before tokens were added.
#[derive(Debug)]
pub(super) struct Mark {
    tokens: usize,
    /// Lengths of the lists, and the last entry of each, which more tokens of its page change.
    bounds: Vec<(usize, Vec<f32>)>,
    sums: Vec<(usize, Vec<f32>)>,
}

fn marked(lists: &[Vec<f32>], entry: usize) -> Vec<(usize, Vec<f32>)> {
    lists.iter().map(|list| (list.len(), list[list.len().saturating_sub(entry)..].to_vec())).collect()
}

fn restore(lists: &mut Vec<Vec<f32>>, mark: Vec<(usize, Vec<f32>)>) {
    lists.truncate(mark.len());
    for (list, (len, last)) in lists.iter_mut().zip(mark) {
        list.truncate(len);
        list[len - last.len()..].copy_from_slice(&last);
    }
}

impl Summaries {
    /// A place to go back to with [`Summaries::back_to`].
    pub(super) fn mark(&self, dim: usize) -> Mark {
        Mark { tokens: self.tokens, bounds: marked(&self.bounds, 2 * dim), sums: marked(&self.sums, dim) }
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.tokens = mark.tokens;
        restore(&mut self.bounds, mark.bounds);
        restore(&mut self.sums, mark.sums);
    }

    /// Adds one token: its rotated keys and those before the rotation, `[kv_heads, dim]`, as far as they are wanted.
    pub(super) fn push(&mut self, wanted: Wanted, keys: &[f32], raw_keys: &[f32], dim: usize) {
        if wanted.page > 0 {
            self.bounds.resize(keys.len() / dim, Vec::new());
            for (bounds, key) in self.bounds.iter_mut().zip(keys.chunks_exact(dim)) {
                if self.tokens.is_multiple_of(wanted.page) {
                    bounds.extend_from_slice(key);
                    bounds.extend_from_slice(key);
                    continue;
                }
                let page = bounds.len() - 2 * dim;
                let (low, high) = bounds[page..].split_at_mut(dim);
                low.iter_mut().zip(key).for_each(|(low, &x)| *low = low.min(x));
                high.iter_mut().zip(key).for_each(|(high, &x)| *high = high.max(x));
            }
        }
        if let Some(grid) = wanted.means {
            self.sums.resize(raw_keys.len() / dim, Vec::new());
            let place = self.tokens.checked_sub(grid.first);
            for (sums, key) in self.sums.iter_mut().zip(raw_keys.chunks_exact(dim)) {
                let Some(place) = place else { continue };
                if place.is_multiple_of(grid.size) {
                    sums.extend_from_slice(key);
                    continue;
                }
                let block = sums.len() - dim;
                sums[block..].iter_mut().zip(key).for_each(|(sum, &x)| *sum += x);
            }
        }
        self.tokens += 1;
    }

    /// Bounds of the pages of a head, `[pages, 2, dim]`; `None` where there are none of that size.
    pub(super) fn bounds(&self, wanted: Wanted, head: usize, page: usize) -> Option<&[f32]> {
        self.bounds.get(head).filter(|_| wanted.page == page).map(Vec::as_slice)
    }

    /// Means of the first `blocks` blocks of a head, `[blocks, dim]`; `None` where they are not kept.
    pub(super) fn means(
        &self,
        wanted: Wanted,
        head: usize,
        (grid, blocks): (BlockGrid, usize),
        dim: usize,
    ) -> Option<Vec<f64>> {
        let sums = self.sums.get(head).filter(|_| wanted.means == Some(grid))?;
        let whole = sums.get(..blocks * dim)?;
        Some(whole.iter().map(|&sum| f64::from(sum) / grid.size as f64).collect())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bounds.iter().chain(&self.sums).map(|list| size_of_val(list.as_slice()) as u64).sum()
    }
}

/// Keys `[tokens, kv_heads, dim]` as they were before they were rotated to `positions`.
pub(super) fn unrotated(
    rope: &TokenRope,
    keys: Vec<f32>,
    positions: &[i32],
    kv_heads: usize,
    dim: usize,
) -> Result<Vec<f32>, RopeError> {
    let back: Vec<i32> = positions.iter().flat_map(|&p| std::iter::repeat_n(-p, kv_heads)).collect();
    turned(keys, dim, &rope.to_raw(&[&back]), Angles::Exact)
}

#[cfg(test)]
mod tests {
    use tether_score::tokens::{block_means, page_bounds};

    use super::*;

    #[test]
    fn are_those_of_the_whole_text_and_go_back() {
        let wanted = Wanted { page: 4, means: Some(BlockGrid { first: 3, size: 5 }) };
        let (dim, heads) = (2, 2);
        let row = |t: usize| -> Vec<f32> {
            (0..heads * dim).map(|c| ((t * 7 + c * 5) % 11) as f32 - 5.0).collect()
        };
        let of_head = |tokens: usize, head: usize| -> Vec<f32> {
            (0..tokens).flat_map(|t| row(t)[head * dim..][..dim].to_vec()).collect()
        };
        let mut summaries = Summaries::default();
        for tokens in 0..20 {
            let mark = summaries.mark(dim);
            for extra in 0..6 {
                summaries.push(wanted, &row(100 + extra), &row(200 + extra), dim);
            }
            summaries.back_to(mark);
            summaries.push(wanted, &row(tokens), &row(tokens), dim);
            for head in 0..heads {
                let keys = of_head(tokens + 1, head);
                assert_eq!(summaries.bounds(wanted, head, 4), Some(&page_bounds(&keys, dim, 4)[..]));
                assert_eq!(summaries.bounds(wanted, head, 8), None, "pages of another size");
                let blocks = (tokens + 1).saturating_sub(3) / 5;
                let expected = block_means(&keys[(3 * dim).min(keys.len())..], dim, 5, blocks);
                let grid = BlockGrid { first: 3, size: 5 };
                let means = summaries.means(wanted, head, (grid, blocks), dim).unwrap_or_default();
                assert_eq!(means.len(), expected.len());
                assert!(means.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
        assert_eq!(summaries.bytes(), 4 * (2 * 5 * 2 * 2 + 2 * 4 * 2));
    }
}
