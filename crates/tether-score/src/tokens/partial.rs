//! A part of a text, as an observation.

use std::borrow::Cow;

use tether_core::Pairing;

use super::{GridPlace, KeptIndices, TokenObservation};
use crate::ScoreError;

/// The tokens of a text that a cache would hold while the text is read: of each head a set of its own, equally many, the last ones in all.
///
/// Queries are those of the text's tokens up to the last one held, whether they are held or not. Attention of all queries so far is not known.
pub struct PartialText<'a> {
    of: &'a dyn TokenObservation,
    held: &'a KeptIndices,
    positions: Vec<Vec<i32>>,
    tokens: usize,
    end: usize,
}

impl std::fmt::Debug for PartialText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartialText")
            .field("held", &self.held)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<'a> PartialText<'a> {
    /// The tokens `held` of `of`, one set a key head.
    ///
    /// # Errors
    /// [`ScoreError::Count`] for another number of heads, heads of different lengths, or tokens that there are not.
    pub fn new(of: &'a dyn TokenObservation, held: &'a KeptIndices) -> Result<Self, ScoreError> {
        let count = |what, expected, got| Err(ScoreError::Count { what, expected, got });
        if held.heads() != of.kv_heads() {
            return count("sets of tokens", of.kv_heads(), held.heads());
        }
        let Some(tokens) = held.uniform_len() else {
            return count("tokens of every head", held.head(0).len(), held.total() / held.heads());
        };
        let end = held.sets().iter().filter_map(|s| s.last()).max().map_or(0, |&t| t as usize + 1);
        if end > of.tokens() {
            return count("tokens of the text", end, of.tokens());
        }
        let positions = (0..held.heads())
            .map(|h| held.head(h).iter().map(|&t| of.positions(h)[t as usize]).collect())
            .collect();
        Ok(Self { of, held, positions, tokens, end })
    }

    fn gathered(&self, data: &[f32], dim: usize) -> Cow<'_, [f32]> {
        let rows = self.held.sets().iter().enumerate().flat_map(|(head, set)| {
            let data = &data[head * self.of.tokens() * dim..][..self.of.tokens() * dim];
            set.iter().flat_map(move |&t| &data[t as usize * dim..][..dim])
        });
        rows.copied().collect()
    }

    /// The last `count` of rows that end with the last token held, of queries that end with the text.
    fn until_end(&self, queries: &[f32], count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let dim = self.of.head_dim_k();
        let recorded = queries.len() / (self.of.query_heads() * dim);
        let after = self.of.tokens() - self.end;
        let start = recorded
            .checked_sub(after + count)
            .ok_or(ScoreError::Missing { what: "queries of earlier tokens" })?;
        let rows = queries.chunks_exact(recorded * dim).flat_map(|q| &q[start * dim..(start + count) * dim]);
        Ok(rows.copied().collect())
    }
}

impl TokenObservation for PartialText<'_> {
    fn kv_heads(&self) -> usize {
        self.of.kv_heads()
    }

    fn query_heads(&self) -> usize {
        self.of.query_heads()
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn head_dim_k(&self) -> usize {
        self.of.head_dim_k()
    }

    fn head_dim_v(&self) -> usize {
        self.of.head_dim_v()
    }

    fn positions(&self, kv_head: usize) -> &[i32] {
        &self.positions[kv_head]
    }

    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(self.gathered(&self.of.keys()?, self.of.head_dim_k()))
    }

    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(self.gathered(&self.of.values()?, self.of.head_dim_v()))
    }

    fn raw_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(self.gathered(&self.of.raw_keys()?, self.of.head_dim_k()))
    }

    fn queries(&self, count: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.of.queries(self.of.tokens() - self.end + count)?;
        self.until_end(&queries, count)
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        let queries = self.of.raw_queries()?;
        let recorded = queries.len() / (self.of.query_heads() * self.of.head_dim_k());
        let count = recorded.saturating_sub(self.of.tokens() - self.end).min(self.tokens);
        self.until_end(&queries, count)
    }

    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        self.of.frequencies()
    }

    fn pairing(&self) -> Pairing {
        self.of.pairing()
    }

    fn attention_factor(&self) -> f32 {
        self.of.attention_factor()
    }

    fn output_projection(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        self.of.output_projection()
    }

    fn grid(&self) -> Result<&[Option<GridPlace>], ScoreError> {
        Err(ScoreError::Missing { what: "the grid of visual tokens, head by head" })
    }

    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        Err(ScoreError::Missing { what: "attention of all queries while the text was read" })
    }
}
