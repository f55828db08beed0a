//! Rows of a pool.

use super::super::store::copy_elements;
use crate::{CoreError, HostTensor, PoolRows, TensorData};

/// Rows are in range.
pub(super) fn read(problem: &PoolRows, pool: &TensorData, rows: &[u32]) -> Result<HostTensor, CoreError> {
    let mut out = TensorData::zeros(pool.dtype(), crate::tensor::element_count(&problem.shape)?)?;
    for (place, &row) in rows.iter().enumerate() {
        copy_elements(
            &mut out,
            place * problem.row_len,
            pool,
            row as usize * problem.row_len,
            problem.row_len,
        );
    }
    HostTensor::new(&problem.shape, out)
}

/// Rows are in range.
pub(super) fn write(problem: &PoolRows, pool: &mut TensorData, rows: &[u32], x: &TensorData) {
    for (place, &row) in rows.iter().enumerate() {
        copy_elements(pool, row as usize * problem.row_len, x, place * problem.row_len, problem.row_len);
    }
}
