//! Rows of a pool, read and written where they lie.

use crate::{CoreError, PageProblem, Shape};

/// Extents of a read or write of single rows, checked. A row is the last axis of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRows {
    /// Rows of the pool.
    pub pool_rows: usize,
    /// Elements of a row.
    pub row_len: usize,
    /// Rows that are read or written.
    pub count: usize,
    /// Shape of what is read or written: that of the row numbers, and then a row.
    pub shape: Shape,
}

impl PoolRows {
    /// From the shapes of a pool `[.., row_len]` and of row numbers.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] for a pool without axes.
    pub fn new(pool: &[usize], rows: &[usize]) -> Result<Self, CoreError> {
        let Some((&row_len, outer)) = pool.split_last() else {
            return Err(CoreError::ShapeMismatch { what: "pool", expected: [0, 0].into(), got: pool.into() });
        };
        let mut shape = Shape::from_slice(rows);
        shape.push(row_len);
        Ok(Self { pool_rows: outer.iter().product(), row_len, count: rows.iter().product(), shape })
    }

    /// Reading rows is gathering pages of one row.
    pub fn pages(&self) -> PageProblem {
        PageProblem { pages: self.pool_rows, page_len: self.row_len, kept: self.count }
    }

    /// `x` holds a row for each row number, whatever its outer axes.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`].
    pub fn holds(&self, x: &[usize]) -> Result<(), CoreError> {
        let rows: usize = x.split_last().map_or(0, |(_, outer)| outer.iter().product());
        if x.last() == Some(&self.row_len) && rows == self.count {
            return Ok(());
        }
        Err(CoreError::ShapeMismatch { what: "x", expected: self.shape.as_slice().into(), got: x.into() })
    }
}
