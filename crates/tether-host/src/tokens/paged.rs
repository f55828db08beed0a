//! Attention over the pages of one head: keys are scored block by block, then values are summed the same way.

use std::ops::Range;

use rayon::prelude::*;

use super::few::{FEW, Run, attend_few};
use super::shaped::Logits;
use tether_core::{CoreError, EMPTY_LSE, Side, merge_partial};
use tether_dense::{MatRef, matmul};

/// Tokens that are brought together at a time; they stay in the second-level cache.
const BLOCK: usize = 256;
/// Tokens of a part of a list, at most, but whole pages: parts are tasks of their own, because key heads are fewer than a machine's cores or no
/// multiple of them. How a list is parted does not depend on the machine, so neither do a result's bits.
const PART: usize = 256;
/// Rows that are widened at a time for few queries: they stay in the first-level cache.
const RUN: usize = 32;

/// Rows of pools `[pages * page_size * page_heads, head_dim]`, in any form.
pub(super) trait Rows {
    /// Writes the rows from row `row` on, as many as fit `into`, widened.
    fn load(&self, side: Side, row: usize, into: &mut [f32]);

    /// All rows as they lie, where they are 32-bit floats.
    fn lend(&self, _side: Side) -> Option<&[f32]> {
        None
    }
}

impl<F: Fn(Side, usize, &mut [f32])> Rows for F {
    fn load(&self, side: Side, row: usize, into: &mut [f32]) {
        self(side, row, into);
    }
}

/// Outputs and log-sum-exps.
pub(super) type Attended = (Vec<f32>, Vec<f32>);

/// One token's queries of a head, already scaled, which see all that the head has.
pub(super) struct HeadQueries<'a, L> {
    pub head: PagedHead<'a>,
    pub queries: Vec<f32>,
    pub logits: &'a L,
}

/// Attention of each head's queries: outputs and log-sum-exps, as [`PagedHead::attend`] makes them.
pub(super) fn attend_in_parts(
    heads: &[HeadQueries<'_, impl Logits>],
    dims: (usize, usize),
    parallel: bool,
    rows: &(impl Rows + Sync),
) -> Result<Vec<Attended>, CoreError> {
    let tasks: Vec<(usize, Range<usize>)> =
        heads.iter().enumerate().flat_map(|(i, of)| of.head.parts().map(move |part| (i, part))).collect();
    let attend = |(i, part): &(usize, Range<usize>)| {
        let HeadQueries { head, queries, logits } = &heads[*i];
        let pages = &head.pages[part.start / head.page_size..];
        let of_part = PagedHead { pages, tokens: part.len(), ..*head };
        of_part.attend_all(queries, dims, rows, (*logits, part.start))
    };
    let parts: Vec<Attended> =
        if parallel { tasks.par_iter().map(attend).collect() } else { tasks.iter().map(attend).collect() };
    let mut merged: Vec<Attended> = Vec::with_capacity(heads.len());
    for ((head, _), (out, lse)) in tasks.iter().zip(parts) {
        match merged.get_mut(*head) {
            Some((all, all_lse)) => merge_partial((all, all_lse), (&out, &lse))?,
            None => merged.push((out, lse)),
        }
    }
    Ok(merged)
}

/// The tokens of one head of one sequence.
pub(super) struct PagedHead<'a> {
    pub pages: &'a [u32],
    /// Tokens that count.
    pub tokens: usize,
    pub page_size: usize,
    pub page_heads: usize,
    /// The head's place in a page.
    pub place: usize,
}

impl PagedHead<'_> {
    /// Parts of the tokens, of about the same length; one where there are no tokens.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let tokens = self.tokens.max(1);
        let length = tokens.div_ceil(tokens.div_ceil(PART)).next_multiple_of(self.page_size);
        let end = self.tokens;
        (0..tokens).step_by(length).map(move |start| start..(start + length).min(end))
    }

    /// [`PagedHead::attend`] where every query sees all tokens.
    fn attend_all(
        &self,
        queries: &[f32],
        dims: (usize, usize),
        rows: &impl Rows,
        logits: (&impl Logits, usize),
    ) -> Attended {
        if self.tokens > 0 && (1..=FEW * dims.0).contains(&queries.len()) {
            return attend_few(self, queries, dims, rows, logits);
        }
        self.attend(queries, dims, |_| self.tokens, rows, logits)
    }

    /// Output `[rows, dims.1]` and log-sum-exps of scaled queries `[rows, dims.0]`, of which row `i` sees the first `seen(i)` tokens, at least one
    /// where there are any. The head's first token is token `first` to `logits`.
    pub(super) fn attend(
        &self,
        queries: &[f32],
        dims: (usize, usize),
        seen: impl Fn(usize) -> usize,
        source: &impl Rows,
        (logits, first): (&impl Logits, usize),
    ) -> Attended {
        let rows = queries.len() / dims.0.max(1);
        let mut out = vec![0f32; rows * dims.1];
        if self.tokens == 0 {
            return (out, vec![EMPTY_LSE; rows]);
        }
        let total = self.tokens;
        let queries = MatRef::row_major(queries, rows, dims.0, dims.0);
        let mut block = vec![0f32; BLOCK.min(total) * dims.0.max(dims.1)];
        let mut weights = vec![0f32; rows * total];
        for start in (0..total).step_by(BLOCK) {
            let count = BLOCK.min(total - start);
            self.gather(Side::Keys, start, count, dims.0, &mut block, source);
            let keys = MatRef::row_major(&block, count, dims.0, dims.0);
            matmul(&mut weights[start..], total, 0.0, queries, keys.transposed());
        }
        let mut lse = Vec::with_capacity(rows);
        for (i, row) in weights.chunks_exact_mut(total).enumerate() {
            let (visible, hidden) = row.split_at_mut(seen(i));
            let columns = visible.len();
            lse.extend(logits.weigh((i, first), visible, columns));
            hidden.fill(0.0);
        }
        for start in (0..total).step_by(BLOCK) {
            let count = BLOCK.min(total - start);
            self.gather(Side::Values, start, count, dims.1, &mut block, source);
            let values = MatRef::row_major(&block, count, dims.1, dims.1);
            let weights = MatRef::row_major(&weights[start..], rows, count, total);
            matmul(&mut out, dims.1, 1.0, weights, values);
        }
        (out, lse)
    }

    /// The row of token `token`.
    pub(super) fn row(&self, token: usize) -> usize {
        self.run(token, 1).0
    }

    /// The rows of `count` tokens from `start` on; what lies together is loaded together.
    fn gather(
        &self,
        side: Side,
        start: usize,
        count: usize,
        dim: usize,
        block: &mut [f32],
        rows: &impl Rows,
    ) {
        let mut done = 0;
        while dim > 0 && done < count {
            let (row, run) = self.run(start + done, count - done);
            self.load(side, row, rows, &mut block[done * dim..(done + run) * dim], dim);
            done += run;
        }
    }

    /// The row of token `token`, and how many tokens from it on, `most` at most, are in its page.
    fn run(&self, token: usize, most: usize) -> (usize, usize) {
        let place = token % self.page_size;
        let slot = self.pages[token / self.page_size] as usize * self.page_size + place;
        (slot * self.page_heads + self.place, (self.page_size - place).min(most))
    }

    /// The rows of tokens of one page, of which the first is `row`; what lies together is loaded together.
    fn load(&self, side: Side, row: usize, rows: &impl Rows, into: &mut [f32], dim: usize) {
        if self.page_heads == 1 {
            return rows.load(side, row, into);
        }
        for (i, into) in into.chunks_exact_mut(dim).enumerate() {
            rows.load(side, row + i * self.page_heads, into);
        }
    }

    /// Calls `each` with the rows of every page, and with the first one's token.
    pub(super) fn each_run(
        &self,
        (side, dim): (Side, usize),
        rows: &impl Rows,
        mut each: impl FnMut(usize, Run<'_>),
    ) {
        let lent = rows.lend(side);
        let stride = self.page_heads * dim;
        let at = |token: usize| match lent {
            Some(all) if token < self.tokens => {
                let (row, count) = self.run(token, RUN.min(self.tokens - token));
                &all[row * dim..][..(count - 1) * stride + dim]
            }
            _ => &[],
        };
        let mut loaded = Vec::new();
        let mut token = 0;
        while dim > 0 && token < self.tokens {
            let (row, count) = self.run(token, RUN.min(self.tokens - token));
            if lent.is_some() {
                each(token, Run { data: at(token), next: at(token + count), stride, dim });
            } else {
                loaded.resize(count * dim, 0.0);
                self.load(side, row, rows, &mut loaded, dim);
                each(token, Run { data: &loaded, next: &[], stride: dim, dim });
            }
            token += count;
        }
    }
}
