//! Phase tables: the cosines and sines by which queries and keys are rotated when they are read.

use crate::{CoreError, Pairing};

/// Extents of a phase table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseExtents {
    /// Unit positions.
    pub positions: usize,
    /// Tokens of a unit.
    pub tokens: usize,
    /// Rotated pairs of a head.
    pub pairs: usize,
}

/// One factor of a [`PhaseTable`]: a row for each place, and in it an entry for each pair that turns with the place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseRows {
    /// Places.
    pub rows: usize,
    /// Pairs of a head that turn with the place.
    pub pairs: usize,
    /// `[rows, pairs]` entries `[cos, sin]`.
    pub entries: Vec<[f32; 2]>,
}

impl PhaseRows {
    /// Places that nothing turns with.
    pub fn still(rows: usize) -> Self {
        Self { rows, ..Self::default() }
    }

    fn check(&self, what: &'static str) -> Result<(), CoreError> {
        let expected = crate::tensor::element_count(&[self.rows, self.pairs])?;
        crate::checks::count(what, expected, self.entries.len())
    }
}

/// Cosines and sines of a rotary embedding over units of `tokens` tokens, at unit positions `0..positions`.
///
/// The first `unit_pairs` pairs of a head turn with the unit's position, the other `token_pairs` with the token's place in its unit
/// (row and column of a frame), so the table needs `positions * unit_pairs + tokens * token_pairs` entries instead of their product.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseTable {
    pairing: Pairing,
    positions: usize,
    tokens: usize,
    unit_pairs: usize,
    token_pairs: usize,
    unit: Vec<[f32; 2]>,
    token: Vec<[f32; 2]>,
}

impl PhaseTable {
    /// A table from its factors: a row of `units` for each unit position, one of `tokens` for each token of a unit.
    ///
    /// # Errors
    /// [`CoreError::Count`] when a list's length does not fit.
    pub fn new(pairing: Pairing, units: PhaseRows, tokens: PhaseRows) -> Result<Self, CoreError> {
        units.check("unit phases")?;
        tokens.check("token phases")?;
        Ok(Self {
            pairing,
            positions: units.rows,
            tokens: tokens.rows,
            unit_pairs: units.pairs,
            token_pairs: tokens.pairs,
            unit: units.entries,
            token: tokens.entries,
        })
    }

    /// Channel pairing.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Unit positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Tokens of a unit.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rotated pairs of a head. A head dimension of more than twice this leaves its last channels as they are.
    pub fn pairs(&self) -> usize {
        self.unit_pairs + self.token_pairs
    }

    /// Its extents, for [`checks`](crate::checks).
    pub fn extents(&self) -> PhaseExtents {
        PhaseExtents { positions: self.positions, tokens: self.tokens, pairs: self.pairs() }
    }

    /// Pairs that turn with the unit's position.
    pub fn unit_pairs(&self) -> usize {
        self.unit_pairs
    }

    /// Pairs that turn with the token's place in its unit.
    pub fn token_pairs(&self) -> usize {
        self.token_pairs
    }

    /// `[positions, unit_pairs]` entries `[cos, sin]`, for an upload.
    pub fn unit_phases(&self) -> &[[f32; 2]] {
        &self.unit
    }

    /// `[tokens, token_pairs]` entries `[cos, sin]`, for an upload.
    pub fn token_phases(&self) -> &[[f32; 2]] {
        &self.token
    }

    /// `[cos, sin]` of the pairs that turn with the unit, at unit position `position`.
    pub fn unit_row(&self, position: usize) -> &[[f32; 2]] {
        &self.unit[position * self.unit_pairs..][..self.unit_pairs]
    }

    /// `[cos, sin]` of the pairs that turn with the token, of token `token` of its unit.
    pub fn token_row(&self, token: usize) -> &[[f32; 2]] {
        &self.token[token * self.token_pairs..][..self.token_pairs]
    }

    /// Rotates one head of one token in place.
    ///
    /// # Panics
    /// When `position`, `token` or the head's length lies outside the table; engines check these once per call.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize, token: usize) {
        let (unit, token) = (self.unit_row(position), self.token_row(token));
        match self.pairing {
            Pairing::Interleaved => {
                // Two plain loops: a chained iterator would not be vectorised.
                let (pairs, _) = head.as_chunks_mut::<2>();
                let (first, rest) = pairs.split_at_mut(unit.len());
                for (pairs, phases) in [(first, unit), (rest, token)] {
                    for (pair, &[cos, sin]) in pairs.iter_mut().zip(phases) {
                        let [a, b] = *pair;
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                }
            }
            Pairing::Half => {
                let (low, high) = head.split_at_mut(self.pairs());
                for ((low, high), &[cos, sin]) in low.iter_mut().zip(high).zip(unit.iter().chain(token)) {
                    (*low, *high) = (*low * cos - *high * sin, *low * sin + *high * cos);
                }
            }
        }
    }
}
