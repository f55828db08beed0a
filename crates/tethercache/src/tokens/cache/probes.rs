//! Tokens that are run after a text to see what they attend to, and then forgotten.

use tether_core::Side;

use super::recorded::by_head;
use super::{SequenceId, TokenCache, unknown};
use crate::Error;

/// Rotated queries and keys of probe tokens in one layer.
#[derive(Clone, Debug)]
pub(super) struct Probes {
    /// Token after token, `[n, query_heads, head_dim]`.
    pub queries: Vec<f32>,
    /// `[kv_heads, n, head_dim]`.
    pub keys: Vec<f32>,
    /// Tokens that the sequence had: probes of a shorter text say nothing.
    pub seen: usize,
}

impl<E: tether_core::TokenEngine> TokenCache<E> {
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
            let keys = self.rows(layer, Side::Keys, run.heads.iter().flat_map(rows).collect())?;
            let queries = run.recorded.queries.on_host(&self.engine)?;
            let queries = queries[queries.len() - count * g.query_heads * g.head_dim_k..].to_vec();
            all.push(Probes { queries, keys, seen: held.seen });
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

impl Probes {
    /// Queries of heads `heads`, `[heads, n, dim]`.
    pub(super) fn queries_of(
        &self,
        query_heads: usize,
        heads: std::ops::Range<usize>,
        dim: usize,
    ) -> Vec<f32> {
        by_head(&self.queries, usize::MAX, query_heads, heads, dim)
    }
}
