//! Coded rows.

use half::f16;
use tether_core::{CoreError, checks};

use super::RowFrame;
use crate::comparison::PublishedCodes;
use crate::{AffineCodes, HostSpherical};

/// A page of rows of one head, as codes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CodedRows {
    /// Half precision.
    Half {
        /// Channels.
        head_dim: usize,
        /// `[rows, head_dim]`.
        numbers: Vec<f16>,
    },
    /// Whole numbers with scales and zeros.
    Affine(AffineCodes),
    /// Spherical codes of one head.
    Spherical(HostSpherical),
    /// Radii and entries of codebooks.
    Published(PublishedCodes),
}

impl CodedRows {
    pub(super) fn half(rows: &[f32], head_dim: usize) -> Result<Self, CoreError> {
        let numbers: Vec<f16> = rows.iter().map(|&x| f16::from_f32(x)).collect();
        match numbers.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(CoreError::NonFinite { what: "x", index }),
            None => Ok(Self::Half { head_dim, numbers }),
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Half { head_dim, numbers } => numbers.len() / head_dim,
            Self::Affine(codes) => codes.rows(),
            Self::Spherical(codes) => codes.radii.len(),
            Self::Published(codes) => codes.rows(),
        }
    }

    /// Bytes of codes and of what goes beside them for rows, groups and pages.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Half { numbers, .. } => size_of_val(numbers.as_slice()),
            Self::Affine(codes) => codes.bytes(),
            Self::Spherical(codes) => codes.bytes(),
            Self::Published(codes) => codes.bytes(),
        }
    }

    /// Writes rows from `first` on to `into`, as many as fit, in the coordinates of `frame`, which must be the one that they were coded in.
    ///
    /// # Errors
    /// [`CoreError::Count`] for rows that are not there or of other sizes, [`CoreError::Unsupported`] for the frame of another codec.
    pub fn read(&self, frame: &RowFrame, first: usize, into: &mut [f32]) -> Result<(), CoreError> {
        let dim = frame.head_dim();
        let wanted = first + into.len() / dim;
        if wanted > self.rows() {
            return Err(CoreError::Count { what: "rows", expected: wanted, got: self.rows() });
        }
        match (self, frame) {
            (Self::Half { head_dim, numbers }, RowFrame::Plain { .. }) => {
                checks::count("channels of a row", dim, *head_dim)?;
                into.iter_mut().zip(&numbers[first * dim..]).for_each(|(to, x)| *to = x.to_f32());
            }
            (Self::Affine(codes), RowFrame::Plain { .. }) => {
                checks::count("channels of a row", dim, codes.head_dim())?;
                codes.read_rows(first, into);
            }
            (Self::Spherical(codes), RowFrame::Spherical(_)) => {
                let problem = codes.check()?;
                checks::count("channels of a row", dim, problem.head_dim)?;
                for (row, into) in (first..).zip(into.chunks_exact_mut(dim)) {
                    codes.rotated_row(&problem, row, into);
                }
            }
            (Self::Published(codes), RowFrame::Published(books)) => books.read_rows(codes, first, into)?,
            _ => {
                let feature = "codes in the frame of another codec";
                return Err(CoreError::Unsupported { engine: "the host", feature });
            }
        }
        Ok(())
    }

    /// What the codes stand for, `[rows, head_dim]`.
    ///
    /// # Errors
    /// As [`CodedRows::read`].
    pub fn restored(&self, frame: &RowFrame) -> Result<Vec<f32>, CoreError> {
        let mut rows = vec![0f32; self.rows() * frame.head_dim()];
        self.read(frame, 0, &mut rows)?;
        frame.leave(&mut rows);
        Ok(rows)
    }
}
