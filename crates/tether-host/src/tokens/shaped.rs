//! Logits as [`AttendOptions`] make them of `scale * q.k`, and the tokens that a window leaves.

use std::borrow::Cow;

use super::HostIndices;
use super::paged::PagedHead;
use tether_core::{AttendOptions, EMPTY_LSE};
use tether_dense::{exp, softmax_rows};

/// From logits to weights.
pub(super) trait Logits: Sync {
    /// Turns rows of `columns` logits, the rows from `row` on and the tokens from `token` on, into weights that sum to 1, or into zeros where a row
    /// sees none of the tokens; returns the log-sum-exps.
    fn weigh(&self, at: (usize, usize), logits: &mut [f32], columns: usize) -> Vec<f32>;
}

/// Logits are what they are.
#[derive(Debug)]
pub(super) struct Plain;

impl Logits for Plain {
    fn weigh(&self, _: (usize, usize), logits: &mut [f32], columns: usize) -> Vec<f32> {
        softmax_rows(logits, columns)
    }
}

/// Options of a call, and where its tokens stand.
#[derive(Debug)]
pub(super) struct Shaping<'a> {
    pub options: &'a AttendOptions,
    /// Of the pool's rows and of the new tokens, `i32`s' bits; without them a token's place in its list.
    pub positions: Option<(&'a [u32], &'a [u32])>,
}

/// A run of query tokens of one key head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    /// The first token, counted through the batch, and how many there are.
    pub first: usize,
    pub count: usize,
    /// Tokens of the list that the first one sees; each further one sees one more.
    pub seen: usize,
    /// Key head, and query heads that share it.
    pub kv_head: usize,
    pub group: usize,
}

/// What is left of a list, and what becomes of its logits.
#[derive(Debug)]
pub(super) struct Narrowed<'a> {
    pub pages: Cow<'a, [u32]>,
    /// Tokens that were left out, all before those of the queries.
    pub hidden: usize,
    pub logits: Shaped<'a>,
}

impl<'a> Shaping<'a> {
    /// None for a scale and nothing else.
    pub(super) fn of(
        options: &'a AttendOptions,
        positions: Option<(&'a HostIndices, &'a HostIndices)>,
    ) -> Option<Self> {
        let positions = positions.map(|(rows, tokens)| (rows.values(), tokens.values()));
        (!options.is_plain()).then_some(Self { options, positions })
    }

    /// The list of `head` without the pages that none of the queries sees any of.
    pub(super) fn narrow(&self, head: &PagedHead<'a>, asking: Asking) -> Narrowed<'a> {
        let &AttendOptions { softcap, window, ref alibi, .. } = self.options;
        let Asking { first, count, seen, kv_head, group } = asking;
        let slopes = alibi.get(kv_head * group..(kv_head + 1) * group).unwrap_or_default();
        let mut logits = Shaped { softcap, window, slopes, group, queries: Vec::new(), tokens: Vec::new() };
        if !self.options.uses_positions() {
            return Narrowed { pages: head.pages.into(), hidden: 0, logits };
        }
        logits.queries = match self.positions {
            Some((_, queries)) => queries[first..][..count].iter().map(|p| p.cast_signed()).collect(),
            None => (0..count).map(|i| place(seen + i) - 1).collect(),
        };
        // A window that hides a token from the first one hides it from all.
        let lowest = logits.queries.iter().copied().min().unwrap_or(0);
        let size = head.page_size;
        // Pages of the queries themselves are kept whatever their positions are: so what a query sees is a matter of how many went before.
        let own = seen.saturating_sub(1) / size;
        let start = match (window, self.positions) {
            // Places ascend, so what is hidden lies before.
            (Some(window), None) => (seen.saturating_sub(window as usize) / size).min(own),
            _ => 0,
        };
        let mut pages = Cow::Borrowed(&head.pages[start..]);
        for (page, &number) in head.pages.iter().enumerate().skip(start) {
            let at = logits.tokens.len();
            let tokens = page * size..((page + 1) * size).min(head.tokens);
            logits.tokens.extend(tokens.map(|token| match self.positions {
                Some((rows, _)) => rows[head.row(token)].cast_signed(),
                None => place(token),
            }));
            let unseen = || logits.tokens[at..].iter().all(|&token| logits.hides(lowest, token));
            if page < own && self.positions.is_some() && unseen() {
                logits.tokens.truncate(at);
                // From here on the list is one of its own.
                if let Cow::Borrowed(all) = pages {
                    pages = Cow::Owned(all[..at / size].to_vec());
                }
            } else if let Cow::Owned(kept) = &mut pages {
                kept.push(number);
            }
        }
        Narrowed { hidden: head.tokens - logits.tokens.len(), pages, logits }
    }
}

/// A place in a list as a position.
fn place(token: usize) -> i32 {
    i32::try_from(token).unwrap_or(i32::MAX)
}

/// Logits of one key head's queries, `group` rows a token.
#[derive(Debug)]
pub(super) struct Shaped<'a> {
    softcap: Option<f32>,
    window: Option<u32>,
    /// Of the group's heads; empty for none.
    slopes: &'a [f32],
    group: usize,
    /// Positions of the queries' tokens and of the list's, where they matter.
    queries: Vec<i32>,
    tokens: Vec<i32>,
}

impl Shaped<'_> {
    /// Whether a query's window ends before a token.
    fn hides(&self, query: i32, token: i32) -> bool {
        self.window.is_some_and(|window| token <= query && query.abs_diff(token) >= window)
    }

    /// Of one row; returns how many of its tokens are hidden, which is where their logits are the lowest there is.
    fn shape(&self, row: usize, token: usize, logits: &mut [f32]) -> usize {
        if let Some(cap) = self.softcap {
            pulp::Arch::new().dispatch(Capped { logits, cap });
        }
        let Some(&query) = self.queries.get(row / self.group) else { return 0 };
        let tokens = &self.tokens[token..];
        if let Some(&slope) = self.slopes.get(row % self.group) {
            for (logit, &token) in logits.iter_mut().zip(tokens) {
                // Exact, however far apart.
                *logit -= slope * (f64::from(query) - f64::from(token)) as f32;
            }
        }
        let mut hidden = 0;
        if self.window.is_some() {
            for (logit, &token) in logits.iter_mut().zip(tokens) {
                if self.hides(query, token) {
                    *logit = f32::NEG_INFINITY;
                    hidden += 1;
                }
            }
        }
        hidden
    }
}

impl Logits for Shaped<'_> {
    fn weigh(&self, (first, token): (usize, usize), logits: &mut [f32], columns: usize) -> Vec<f32> {
        let mut lse = Vec::with_capacity(logits.len() / columns);
        for (row, logits) in (first..).zip(logits.chunks_exact_mut(columns)) {
            let hidden = self.shape(row, token, logits);
            if hidden == columns {
                logits.fill(0.0);
                lse.push(EMPTY_LSE);
                continue;
            }
            lse.extend(softmax_rows(logits, columns));
            if hidden > 0 {
                // The exponential of what is lowest is not quite nothing.
                let query = self.queries[row / self.group];
                for (weight, &token) in logits.iter_mut().zip(&self.tokens[token..]) {
                    if self.hides(query, token) {
                        *weight = 0.0;
                    }
                }
            }
        }
        lse
    }
}

/// `cap * tanh(logit / cap)`.
struct Capped<'a> {
    logits: &'a mut [f32],
    cap: f32,
}

// A type with an inlined method and not a closure, whose call is not always inlined into the function that has the vector instructions.
impl pulp::WithSimd for Capped<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let inverse = 1.0 / self.cap;
        self.logits.iter_mut().for_each(|x| *x = self.cap * tanh(*x * inverse));
    }
}

/// Hyperbolic tangent with a relative error below 1e-6.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let e = exp(-2.0 * size);
    let far = (1.0 - e) / (1.0 + e);
    // Near 0 that difference has few digits left.
    let square = size * size;
    let mut near = 62.0 / 2835.0;
    near = square.mul_add(near, -17.0 / 315.0);
    near = square.mul_add(near, 2.0 / 15.0);
    near = square.mul_add(near, -1.0 / 3.0);
    near = (size * square).mul_add(near, size);
    let result = if size < 0.25 { near } else { far };
    result.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tangent_agrees_with_the_standard_library() {
        for i in -30_000..30_000 {
            let x = i as f32 * 1e-3;
            let (got, want) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((got - want).abs() <= 1e-6 * want.abs(), "tanh({x}) = {got}, should be {want}");
        }
        assert_eq!((tanh(1e30), tanh(-1e30), tanh(1e-30)), (1.0, -1.0, 1e-30));
        assert!(tanh(f32::NAN).is_nan());
    }

    fn options(window: u32) -> AttendOptions {
        AttendOptions { window: Some(window), ..AttendOptions::scaled(1.0) }
    }

    #[test]
    fn a_window_leaves_the_last_pages() {
        let options = options(5);
        let shaping = Shaping { options: &options, positions: None };
        let pages = [7, 3, 9, 4];
        let head = PagedHead { pages: &pages, tokens: 15, page_size: 4, page_heads: 1, place: 0 };
        // Tokens 12 to 14 are new; the first one sees from token 8 on.
        let narrowed = shaping.narrow(&head, Asking { first: 0, count: 3, seen: 13, kv_head: 0, group: 2 });
        assert_eq!((&narrowed.pages[..], narrowed.hidden), (&[9, 4][..], 8));
        assert_eq!(narrowed.logits.tokens, [8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(narrowed.logits.queries, [12, 13, 14]);
    }

    #[test]
    fn what_is_in_no_order_is_looked_up() {
        let options = options(10);
        // Rows of pages 0 to 3, two heads a page; the second one counts. Page 2 holds nothing that is near.
        let rows: Vec<u32> = (0..16).map(|row| if row / 4 == 2 { 5 } else { 100 - row / 8 }).collect();
        let shaping = Shaping { options: &options, positions: Some((&rows, &[101])) };
        let pages = [3, 2, 0, 1];
        let head = PagedHead { pages: &pages, tokens: 7, page_size: 2, page_heads: 2, place: 1 };
        let narrowed = shaping.narrow(&head, Asking { first: 0, count: 1, seen: 7, kv_head: 1, group: 1 });
        assert_eq!((&narrowed.pages[..], narrowed.hidden), (&[3, 0, 1][..], 2));
        assert_eq!(narrowed.logits.tokens, [99, 99, 100, 100, 100]);
        let mut logits = [0.5; 5];
        assert!(narrowed.logits.weigh((0, 0), &mut logits, 5)[0] > 2.0);
        assert_eq!(logits, [0.2; 5]);
    }

    #[test]
    fn a_row_that_sees_nothing_is_empty() {
        let options = options(3);
        let shaping = Shaping { options: &options, positions: Some((&[1, 2], &[9])) };
        let head = PagedHead { pages: &[0], tokens: 2, page_size: 2, page_heads: 1, place: 0 };
        let narrowed = shaping.narrow(&head, Asking { first: 0, count: 1, seen: 2, kv_head: 0, group: 1 });
        let mut logits = [f32::NAN, 3.0];
        assert_eq!(narrowed.logits.weigh((0, 0), &mut logits, 2), [EMPTY_LSE]);
        assert_eq!(logits, [0.0; 2]);
    }
}
