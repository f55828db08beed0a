//! Tokens that become part of others, where their rows are.

use tether_core::{CoreError, RowLists, Side, SimilarRows, TokenEngine};
use tether_edit::EditError;
use tether_edit::tokens::{Merge, MergeSimilar, TokenEdit};

use super::TokenCache;
use super::head_pages::HeadPages;
use crate::Error;
use crate::tokens::TokenPlan;

/// Rows that are merged into others.
#[derive(Debug)]
pub(super) struct Merged {
    /// For each merge, the number of its token among the rows that are written.
    pub to: Vec<u32>,
    /// Where the rows of each merge begin.
    starts: Vec<u32>,
    /// Rows of the pool, the one that stays first.
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Merged {
    /// Merges of tokens of `heads`, with their numbers among the rows.
    pub(super) fn of<'m>(
        heads: &[HeadPages],
        block_size: usize,
        merges: impl Iterator<Item = (&'m Merge, u32)>,
    ) -> Result<Self, EditError> {
        let mut all = Self { to: Vec::new(), starts: vec![0], rows: Vec::new(), weights: Vec::new() };
        for (merge, to) in merges {
            let (head, list) = (merge.head, &heads[merge.head]);
            for &(token, weight) in std::iter::once(&(merge.into, 1.0)).chain(&merge.from) {
                if token as usize >= list.len() {
                    return Err(EditError::NoSuchToken { head, token, tokens: list.len() });
                }
                all.rows.push(list.row(token as usize, block_size));
                all.weights.push(weight);
            }
            all.to.push(to);
            all.starts.push(all.rows.len() as u32);
        }
        Ok(all)
    }

    pub(super) fn lists(&self) -> RowLists<'_> {
        RowLists { starts: &self.starts, rows: &self.rows, weights: &self.weights }
    }
}

/// How a head's evicted tokens join those like them, where they do.
fn similar_of(plan: &TokenPlan, head: usize) -> Option<MergeSimilar> {
    plan.edits.iter().find_map(|edit| match edit {
        TokenEdit::MergeSimilar { head: of, by } if *of == head => Some(*by),
        _ => None,
    })
}

impl<E: TokenEngine> TokenCache<E> {
    /// How a head's evicted tokens join those like them, where the device finds out which.
    pub(super) fn joins(&self, plan: &TokenPlan, head: usize) -> Option<MergeSimilar> {
        similar_of(plan, head).filter(|_| self.engine.joins_similar())
    }

    /// All of a plan's merges into what stays, head after head, but for those that the device finds.
    pub(super) fn merges(&self, heads: &[HeadPages], plan: &TokenPlan) -> Result<Vec<Merge>, Error> {
        let mut merges = Vec::new();
        for edit in &plan.edits {
            match edit {
                TokenEdit::Merge(merge) => merges.push(merge.clone()),
                &TokenEdit::MergeSimilar { head, by }
                    if head < heads.len() && self.joins(plan, head).is_none() =>
                {
                    let list = std::slice::from_ref(&heads[head]);
                    let rows = |side| self.rows_of(plan.layer, side, list);
                    let dims = (self.geometry.head_dim_k, self.geometry.head_dim_v);
                    let (keys, values) = (rows(Side::Keys)?, rows(Side::Values)?);
                    merges.extend(by.plan(head, &keys, &values, dims, plan.keep.head(head))?);
                }
                TokenEdit::MergeSimilar { .. } | TokenEdit::Compensate { .. } => {}
            }
        }
        merges.retain(|m| m.head < heads.len() && plan.keep.head(m.head).binary_search(&m.into).is_ok());
        merges.sort_by_key(|m| m.head);
        Ok(merges)
    }

    /// Values of all that stays of a head once evicted tokens have joined those like them.
    pub(super) fn joined(
        &self,
        (number, head): (usize, &HeadPages),
        plan: &TokenPlan,
        by: MergeSimilar,
    ) -> Result<E::Tensor, CoreError> {
        let (engine, size) = (&self.engine, self.geometry.block_size);
        let rows = |tokens: &[u32]| {
            let rows: Vec<u32> = tokens.iter().map(|&token| head.row(token as usize, size)).collect();
            engine.upload_indices(&[rows.len()], &rows)
        };
        let evicted = plan.keep.evicted(number, head.len());
        let pools = &self.layers[plan.layer];
        engine.join_similar(&SimilarRows {
            keys: &pools.k,
            values: &pools.v,
            kept: &rows(plan.keep.head(number))?,
            leaving: &rows(&evicted)?,
            threshold: by.threshold,
            most: by.most(evicted.len()),
        })
    }
}
