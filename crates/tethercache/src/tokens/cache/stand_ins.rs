//! Tokens that stand for those that left, one for each key head, on the device.

use tether_core::{CoreError, DType, EMPTY_LSE, HostTensor, RowLists, StandIns, TokenEngine};
use tether_edit::tokens::{Compensation, TokenEdit};

use super::TokenCache;
use super::head_pages::HeadPages;
use crate::Error;
use crate::tokens::TokenPlan;

/// What stands for tokens that left the heads of a layer: their mean, and how many they were. An eviction makes another one, so forks share it.
#[derive(Clone, Debug)]
pub(super) struct StandInRows<T> {
    /// Tokens that left each head.
    counts: Vec<u64>,
    /// `f32` `[kv_heads, head_dim_k]`.
    keys: T,
    /// `f32` `[kv_heads, head_dim_v]`.
    values: T,
    /// What is added to each head's logit.
    biases: T,
}

impl<T> StandInRows<T> {
    /// As an engine takes them.
    pub(super) fn rows<E: TokenEngine<Tensor = T>>(&self) -> StandIns<'_, E> {
        StandIns { keys: &self.keys, values: &self.values, biases: &self.biases }
    }

    /// Heads of which tokens have left.
    pub(super) fn heads(&self) -> usize {
        self.counts.iter().filter(|&&count| count > 0).count()
    }
}

impl<E: TokenEngine> TokenCache<E> {
    /// What stands for the tokens that have left once a plan's have; nothing is changed yet.
    pub(super) fn stand_ins(
        &self,
        heads: &[HeadPages],
        before: Option<&StandInRows<E::Tensor>>,
        plan: &TokenPlan,
    ) -> Result<Option<StandInRows<E::Tensor>>, Error> {
        let size = self.geometry.block_size;
        let compensated = |head: usize| {
            plan.edits.iter().any(|e| matches!(e, TokenEdit::Compensate { head: of } if *of == head))
        };
        let (mut starts, mut rows, mut counts) = (vec![0], Vec::new(), Vec::new());
        for (number, head) in heads.iter().enumerate() {
            if compensated(number) {
                let evicted = plan.keep.evicted(number, head.len());
                rows.extend(evicted.into_iter().map(|token| head.row(token as usize, size)));
            }
            starts.push(rows.len() as u32);
            counts.push(u64::from(starts[number + 1] - starts[number]));
        }
        if rows.is_empty() {
            return Ok(before.cloned());
        }
        let weights = vec![1.0; rows.len()];
        let lists = RowLists { starts: &starts, rows: &rows, weights: &weights };
        let pools = &self.layers[plan.layer];
        let mean = |pool| self.engine.weighted_rows(pool, &lists, DType::F32);
        let (mut keys, mut values) = (mean(&pools.k)?, mean(&pools.v)?);
        if let Some(before) = before {
            keys = self.blended((&before.keys, &before.counts), (&keys, &counts))?;
            values = self.blended((&before.values, &before.counts), (&values, &counts))?;
            counts.iter_mut().zip(&before.counts).for_each(|(count, old)| *count += old);
        }
        let bias = |&count: &u64| if count == 0 { EMPTY_LSE } else { Compensation::bias(count) };
        let biases = HostTensor::from_f32(&[counts.len()], counts.iter().map(bias).collect())?;
        let biases = self.engine.upload(&biases)?;
        Ok(Some(StandInRows { counts, keys, values, biases }))
    }

    /// Means of what two lots of tokens have for a mean, each head's by itself.
    fn blended(
        &self,
        (old, old_counts): (&E::Tensor, &[u64]),
        (new, new_counts): (&E::Tensor, &[u64]),
    ) -> Result<E::Tensor, CoreError> {
        let (engine, heads) = (&self.engine, old_counts.len() as u32);
        let dim = engine.describe(old).0[1];
        let mut both = engine.upload(&HostTensor::zeros(&[2 * heads as usize, dim], DType::F32)?)?;
        for (rows, from) in [(0..heads, old), (heads..2 * heads, new)] {
            let rows: Vec<u32> = rows.collect();
            engine.write_rows(&mut both, &engine.upload_indices(&[rows.len()], &rows)?, from)?;
        }
        let starts: Vec<u32> = (0..=heads).map(|head| 2 * head).collect();
        let rows: Vec<u32> = (0..heads).flat_map(|head| [head, heads + head]).collect();
        let weights: Vec<f32> =
            old_counts.iter().zip(new_counts).flat_map(|(&a, &b)| [a as f32, b as f32]).collect();
        let lists = RowLists { starts: &starts, rows: &rows, weights: &weights };
        engine.weighted_rows(&both, &lists, DType::F32)
    }
}
