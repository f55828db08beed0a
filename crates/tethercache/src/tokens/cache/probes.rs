//! Tokens that are run after a text to see what they attend to, and then forgotten.

use std::ops::Range;

use tether_core::{CoreError, TokenEngine};

use super::{SequenceId, TokenCache, unknown};
use crate::Error;

/// Rotated queries and keys of probe tokens in one layer, on the device.
#[derive(Clone, Debug)]
pub(super) struct Probes<T> {
    /// `[query_heads, n, head_dim]`.
    pub queries: T,
    /// `[kv_heads, n, head_dim]`.
    pub keys: T,
    /// Probe tokens.
    pub count: usize,
    /// Tokens that the sequence had: probes of a shorter text say nothing.
    pub seen: usize,
}

impl<E: TokenEngine> TokenCache<E> {
    /// Takes from `probe`, a fork of `sequence` that has read probe tokens, their queries and keys, and removes it. They are what the next
    /// eviction of `sequence` asks (`DapQ`, arXiv:2603.11564); its own tokens, blocks and positions are as they were.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NotAProbe`] when `probe` does not hold the tokens of `sequence` and then at least one more, and no
    /// more than the recipe asks for; [`Error::Core`] when the device fails. Nothing has changed then.
    pub fn probed(&mut self, sequence: SequenceId, probe: SequenceId) -> Result<(), Error> {
        let (held, run) = (self.sequence(sequence)?, self.sequence(probe)?);
        let (g, most) = (&self.geometry, self.probes_wanted());
        let mut all = Vec::with_capacity(held.layers.len());
        for (layer, (held, run)) in held.layers.iter().zip(&run.layers).enumerate() {
            let count = run.seen.saturating_sub(held.seen);
            let goes_on = held.heads.iter().zip(&run.heads).all(|(held, run)| {
                run.len() == held.len() + count
                    && run.positions.as_slice().starts_with(held.positions.as_slice())
            });
            if sequence == probe || !(1..=most).contains(&count) || !goes_on {
                return Err(Error::NotAProbe { sequence: sequence.0, probe: probe.0 });
            }
            let rows = |head: &super::HeadPages| -> Vec<u32> {
                (head.len() - count..head.len()).map(|t| head.row(t, g.block_size)).collect()
            };
            let rows: Vec<u32> = run.heads.iter().flat_map(rows).collect();
            let rows = self.engine.upload_indices(&[g.kv_heads, count], &rows)?;
            let keys = self.engine.read_rows(&self.layers[layer].k, &rows)?;
            let queries = run.recorded.queries.on_device(&self.engine, count, 0..g.query_heads)?;
            let queries = queries.ok_or(Error::NotAProbe { sequence: sequence.0, probe: probe.0 })?;
            all.push(Probes { queries, keys, count, seen: held.seen });
        }
        self.remove(probe)?;
        let held = self.sequences.get_mut(&sequence).ok_or(unknown(sequence))?;
        held.layers.iter_mut().zip(all).for_each(|(layer, probes)| layer.probes = Some(probes));
        Ok(())
    }

    /// Probe tokens that the recipe asks for.
    pub(super) fn probes_wanted(&self) -> usize {
        let needs = self.planner.needs();
        needs.probe_first + needs.probe_last
    }
}

/// Heads `heads` of `[all, n, dim]`, where `each` is `n`: the tensor itself where those are all.
pub(super) fn heads_of<E: TokenEngine>(
    engine: &E,
    of: &E::Tensor,
    each: usize,
    heads: Range<usize>,
) -> Result<E::Tensor, CoreError> {
    if heads == (0..engine.describe(of).0[0]) {
        return Ok(of.clone());
    }
    let rows: Vec<u32> = (heads.start * each..heads.end * each).map(|row| row as u32).collect();
    engine.read_rows(of, &engine.upload_indices(&[heads.len(), each], &rows)?)
}
