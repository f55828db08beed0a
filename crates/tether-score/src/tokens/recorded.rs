//! Observations from recorded arrays.

use std::borrow::Cow;

use super::TokenObservation;
use super::attention::column_mass;
use super::observation::GridPlace;
use crate::ScoreError;

/// One layer of one sequence as arrays in host memory; those that are empty were not recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedTokens {
    query_heads: usize,
    kv_heads: usize,
    tokens: usize,
    dims: (usize, usize),
    keys: Vec<f32>,
    values: Vec<f32>,
    raw_keys: Vec<f32>,
    queries: Vec<f32>,
    raw_queries: Vec<f32>,
    probes: (Vec<f32>, Vec<f32>),
    attention_sums: Vec<f32>,
    positions: Vec<i32>,
    frequencies: Vec<f64>,
    output_projection: Vec<f32>,
    grid: Vec<Option<GridPlace>>,
}

impl RecordedTokens {
    /// Rotated keys `[kv_heads, tokens, dims.0]` and values `[kv_heads, tokens, dims.1]` at positions `0..tokens`.
    ///
    /// # Errors
    /// [`ScoreError::Heads`] for heads that do not group evenly, [`ScoreError::Count`] for arrays of another size.
    pub fn new(
        (query_heads, kv_heads): (usize, usize),
        tokens: usize,
        dims: (usize, usize),
        keys: Vec<f32>,
        values: Vec<f32>,
    ) -> Result<Self, ScoreError> {
        if kv_heads == 0 || query_heads == 0 || dims.0 == 0 || !query_heads.is_multiple_of(kv_heads) {
            return Err(ScoreError::Heads { query_heads, kv_heads, dim: dims.0 });
        }
        count("numbers of keys", kv_heads * tokens * dims.0, keys.len())?;
        count("numbers of values", kv_heads * tokens * dims.1, values.len())?;
        let positions = (0..tokens as i32).collect();
        Ok(Self { query_heads, kv_heads, tokens, dims, keys, values, positions, ..Self::default() })
    }

    /// With positions, one per token, the same in all heads.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_positions(self, positions: Vec<i32>) -> Result<Self, ScoreError> {
        count("positions", self.tokens, positions.len())?;
        Ok(Self { positions, ..self })
    }

    /// With keys before the rotation, of the keys' shape.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_raw_keys(self, raw_keys: Vec<f32>) -> Result<Self, ScoreError> {
        count("numbers of raw keys", self.keys.len(), raw_keys.len())?;
        Ok(Self { raw_keys, ..self })
    }

    /// With the rotated queries of the last tokens, `[query_heads, n, dims.0]`.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_queries(self, queries: Vec<f32>) -> Result<Self, ScoreError> {
        self.whole_queries("numbers of queries", queries.len())?;
        Ok(Self { queries, ..self })
    }

    /// With the queries of the last tokens before the rotation, `[query_heads, n, dims.0]`.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_raw_queries(self, raw_queries: Vec<f32>) -> Result<Self, ScoreError> {
        self.whole_queries("numbers of raw queries", raw_queries.len())?;
        Ok(Self { raw_queries, ..self })
    }

    /// With rotated queries `[query_heads, n, dims.0]` and keys `[kv_heads, n, dims.0]` of probe tokens.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_probes(self, queries: Vec<f32>, keys: Vec<f32>) -> Result<Self, ScoreError> {
        let rows = queries.len() / (self.query_heads * self.dims.0);
        count("numbers of probe queries", rows * self.query_heads * self.dims.0, queries.len())?;
        count("numbers of probe keys", rows * self.kv_heads * self.dims.0, keys.len())?;
        Ok(Self { probes: (queries, keys), ..self })
    }

    /// With attention that was summed over queries when it was recorded, `[query_heads, tokens]`: what
    /// [`TokenObservation::accumulated_attention`] is computed from queries and keys without.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_attention_sums(self, attention_sums: Vec<f32>) -> Result<Self, ScoreError> {
        count("sums of attention", self.query_heads * self.tokens, attention_sums.len())?;
        Ok(Self { attention_sums, ..self })
    }

    /// With rotary frequencies.
    #[must_use]
    pub fn with_frequencies(self, frequencies: Vec<f64>) -> Self {
        Self { frequencies, ..self }
    }

    /// With the output projection, `[hidden, query_heads * dims.1]`.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_output_projection(self, output_projection: Vec<f32>) -> Result<Self, ScoreError> {
        let inner = (self.query_heads * self.dims.1).max(1);
        count(
            "numbers of the output projection",
            output_projection.len() / inner * inner,
            output_projection.len(),
        )?;
        Ok(Self { output_projection, ..self })
    }

    /// With the tokens' places in pictures.
    ///
    /// # Errors
    /// [`ScoreError::Count`].
    pub fn with_grid(self, grid: Vec<Option<GridPlace>>) -> Result<Self, ScoreError> {
        count("places in a grid", self.tokens, grid.len())?;
        Ok(Self { grid, ..self })
    }

    fn whole_queries(&self, what: &'static str, got: usize) -> Result<(), ScoreError> {
        let row = self.query_heads * self.dims.0;
        let rows = (got / row).min(self.tokens);
        count(what, rows * row, got)
    }
}

fn count(what: &'static str, expected: usize, got: usize) -> Result<(), ScoreError> {
    if expected == got { Ok(()) } else { Err(ScoreError::Count { what, expected, got }) }
}

fn recorded<'a, T>(what: &'static str, array: &'a [T]) -> Result<&'a [T], ScoreError> {
    if array.is_empty() { Err(ScoreError::Missing { what }) } else { Ok(array) }
}

impl TokenObservation for RecordedTokens {
    fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    fn query_heads(&self) -> usize {
        self.query_heads
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn head_dim_k(&self) -> usize {
        self.dims.0
    }

    fn head_dim_v(&self) -> usize {
        self.dims.1
    }

    fn positions(&self, _: usize) -> &[i32] {
        &self.positions
    }

    fn keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok((&self.keys).into())
    }

    fn values(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok((&self.values).into())
    }

    fn raw_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(recorded("keys before the rotation", &self.raw_keys)?.into())
    }

    fn queries(&self, last: usize) -> Result<Cow<'_, [f32]>, ScoreError> {
        let row = self.query_heads * self.dims.0;
        let had = self.queries.len() / row;
        if had < last || had == 0 {
            return Err(ScoreError::Missing { what: "rotated queries" });
        }
        if had == last {
            return Ok((&self.queries).into());
        }
        let of_head = self.queries.chunks_exact(had * self.dims.0);
        Ok(of_head.flat_map(|q| &q[(had - last) * self.dims.0..]).copied().collect())
    }

    fn raw_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(recorded("queries before the rotation", &self.raw_queries)?.into())
    }

    fn probe_queries(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(recorded("queries of probe tokens", &self.probes.0)?.into())
    }

    fn probe_keys(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(recorded("keys of probe tokens", &self.probes.1)?.into())
    }

    fn frequencies(&self) -> Result<&[f64], ScoreError> {
        recorded("rotary frequencies", &self.frequencies)
    }

    fn accumulated_attention(&self) -> Result<Vec<f32>, ScoreError> {
        if self.attention_sums.is_empty() { column_mass(self) } else { Ok(self.attention_sums.clone()) }
    }

    fn output_projection(&self) -> Result<Cow<'_, [f32]>, ScoreError> {
        Ok(recorded("the output projection", &self.output_projection)?.into())
    }

    fn grid(&self) -> Result<&[Option<GridPlace>], ScoreError> {
        recorded("the grid of visual tokens", &self.grid)
    }
}
