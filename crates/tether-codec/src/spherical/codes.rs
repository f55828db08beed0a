//! Spherical codes in host memory.

use half::f16;
use tether_core::{CoreError, HostTensor, Shape, checks};

use super::{SphericalFormat, SphericalFrame, SphericalProblem, row};

/// Codes with their radii; the frame that they are relative to goes beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSpherical {
    /// Shape of what was coded, `[.., heads, head_dim]`.
    pub shape: Shape,
    /// The format.
    pub format: SphericalFormat,
    /// Codes, [`SphericalProblem::row_bytes`] a row.
    pub codes: Vec<u8>,
    /// Radii, one a row.
    pub radii: Vec<f16>,
}

impl HostSpherical {
    /// Rows equal to their head's mean.
    ///
    /// # Errors
    /// Those of [`SphericalProblem::new`].
    pub fn zeros(shape: &[usize], format: SphericalFormat) -> Result<Self, CoreError> {
        let problem = SphericalProblem::new(shape, format)?;
        let (codes, radii) = (vec![0; problem.code_bytes()], vec![f16::ZERO; problem.rows()]);
        Ok(Self { shape: shape.into(), format, codes, radii })
    }

    /// Codes of `x` `[.., heads, head_dim]`, row by row.
    ///
    /// # Errors
    /// Those of [`SphericalProblem::new`] and [`SphericalProblem::suits`]; [`CoreError::NonFinite`] of a number of `x` or of a radius that no `f16` holds.
    pub fn coded(x: &HostTensor, frame: &SphericalFrame, format: SphericalFormat) -> Result<Self, CoreError> {
        let problem = SphericalProblem::new(x.shape(), format)?;
        problem.suits(frame)?;
        if let Some(index) = x.first_non_finite() {
            return Err(CoreError::NonFinite { what: "x", index });
        }
        let mut coded = Self::zeros(x.shape(), format)?;
        let mut scratch = vec![0f32; problem.head_dim];
        let rows = coded.codes.chunks_exact_mut(problem.row_bytes()).zip(&mut coded.radii);
        for (row, (codes, radius)) in rows.enumerate() {
            x.data().widen_into(row * problem.head_dim, &mut scratch);
            *radius = frame.encode_row(row % problem.heads, &mut scratch, format, codes);
        }
        coded.check_radii()?;
        Ok(coded)
    }

    /// All radii are numbers.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`] names the first row whose radius no `f16` holds.
    pub fn check_radii(&self) -> Result<(), CoreError> {
        match self.radii.iter().position(|r| !r.is_finite()) {
            Some(index) => Err(CoreError::NonFinite { what: "radius of a row of x", index }),
            None => Ok(()),
        }
    }

    /// The parts fit each other. What rows hold is not looked at: a pool has rows that are nobody's.
    ///
    /// # Errors
    /// Those of [`SphericalProblem::new`]; [`CoreError::Count`] names the part that is too long or too short.
    pub fn check(&self) -> Result<SphericalProblem, CoreError> {
        let problem = SphericalProblem::new(&self.shape, self.format)?;
        checks::count("bytes of codes", problem.code_bytes(), self.codes.len())?;
        checks::count("radii", problem.rows(), self.radii.len())?;
        Ok(problem)
    }

    /// Copies row `from` of other codes to row `to`.
    ///
    /// # Errors
    /// Those of [`HostSpherical::check`]; [`CoreError::Count`] for a row that is not there, codes of other bits or of
    /// other heads.
    pub fn copy_row(&mut self, source: &Self, from: usize, to: usize) -> Result<(), CoreError> {
        let (own, other) = (self.check()?, source.check()?);
        checks::count("channels of a row", own.head_dim, other.head_dim)?;
        checks::count("bits of codes", self.format.bits.bits(), source.format.bits.bits())?;
        for (row, problem) in [(from, &other), (to, &own)] {
            if row >= problem.rows() {
                return Err(CoreError::Count { what: "rows", expected: row + 1, got: problem.rows() });
            }
        }
        let bytes = own.row_bytes();
        self.codes[to * bytes..][..bytes].copy_from_slice(&source.codes[from * bytes..][..bytes]);
        self.radii[to] = source.radii[from];
        Ok(())
    }

    /// Bytes of codes and radii.
    pub fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(self.radii.as_slice())
    }

    /// `radius z` of row `row`, which is still rotated and centred. `problem` is [`HostSpherical::check`]'s.
    ///
    /// # Panics
    /// For a row that is not there.
    pub fn rotated_row(&self, problem: &SphericalProblem, row: usize, into: &mut [f32]) {
        let bytes = problem.row_bytes();
        row::decode(&self.codes[row * bytes..][..bytes], self.radii[row], self.format, into);
    }

    /// Logits `<q, x>` of one query with rows, from codes, without the term `<q, mean>` that all of a head's rows share: what softmax
    /// does not see. `q` is rotated ([`super::HadamardRotation::rotate`]), and multiplied by whatever logits are scaled with.
    ///
    /// # Errors
    /// Those of [`HostSpherical::check`]; [`CoreError::Count`] for a query of another length or a row that is not there.
    pub fn logits(&self, q: &[f32], rows: impl IntoIterator<Item = usize>) -> Result<Vec<f32>, CoreError> {
        let problem = self.check()?;
        checks::count("channels of q", problem.head_dim, q.len())?;
        let mut z = vec![0f32; problem.head_dim];
        let logit = |row: usize| {
            if row >= problem.rows() {
                return Err(CoreError::Count { what: "rows", expected: row + 1, got: problem.rows() });
            }
            self.rotated_row(&problem, row, &mut z);
            Ok(q.iter().zip(&z).map(|(a, b)| a * b).sum())
        };
        rows.into_iter().map(logit).collect()
    }

    /// Adds `sum of weights_i radius_i z_i` of rows to `sum`, which is still rotated: of values, the output is
    /// `R^T sum + mean * (sum of weights)` ([`HostSpherical::values`]).
    ///
    /// # Errors
    /// As [`HostSpherical::logits`].
    pub fn accumulate(
        &self,
        weights: impl IntoIterator<Item = (usize, f32)>,
        sum: &mut [f32],
    ) -> Result<(), CoreError> {
        let problem = self.check()?;
        checks::count("channels of a sum", problem.head_dim, sum.len())?;
        let mut z = vec![0f32; problem.head_dim];
        for (row, weight) in weights {
            if row >= problem.rows() {
                return Err(CoreError::Count { what: "rows", expected: row + 1, got: problem.rows() });
            }
            self.rotated_row(&problem, row, &mut z);
            sum.iter_mut().zip(&z).for_each(|(s, z)| *s += weight * z);
        }
        Ok(())
    }

    /// The weighted sum of rows of head `head`: [`HostSpherical::accumulate`], rotated back once, and the mean.
    ///
    /// # Errors
    /// As [`HostSpherical::logits`], and for a head that `frame` does not have.
    pub fn values(
        &self,
        frame: &SphericalFrame,
        head: usize,
        weights: &[(usize, f32)],
    ) -> Result<Vec<f32>, CoreError> {
        if head >= frame.heads() {
            return Err(CoreError::Count {
                what: "heads of a frame",
                expected: head + 1,
                got: frame.heads(),
            });
        }
        let mut sum = vec![0f32; frame.head_dim()];
        self.accumulate(weights.iter().copied(), &mut sum)?;
        frame.leave(head, &mut sum, weights.iter().map(|(_, w)| w).sum());
        Ok(sum)
    }
}
