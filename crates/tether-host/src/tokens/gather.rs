//! Rows and pages, copied next to each other and back.

use crate::store::copy_elements;
use tether_core::{CoreError, HostTensor, PageProblem, PoolRows, RowProblem, TensorData};

/// Rows `indices[head, i]` of each head. Indices are in range.
pub(super) fn rows(problem: &RowProblem, x: &TensorData, indices: &[u32]) -> Result<TensorData, CoreError> {
    let (from, to) = (problem.from, problem.to());
    let mut out = TensorData::zeros(x.dtype(), to.len())?;
    for head in 0..to.heads {
        for (place, &token) in indices[head * problem.kept..][..problem.kept].iter().enumerate() {
            let target = place * to.token_stride() + head * to.head_stride();
            let source = token as usize * from.token_stride() + head * from.head_stride();
            copy_elements(out.elements_mut(), target, x, source, to.head_dim);
        }
    }
    Ok(out)
}

/// Pages `indices[i]`. Indices are in range.
pub(super) fn pages(
    problem: &PageProblem,
    pool: &TensorData,
    indices: &[u32],
) -> Result<TensorData, CoreError> {
    let len = problem.page_len;
    let mut out = TensorData::zeros(pool.dtype(), tether_core::checks::element_count(&[problem.kept, len])?)?;
    for (place, &page) in indices.iter().enumerate() {
        copy_elements(out.elements_mut(), place * len, pool, page as usize * len, len);
    }
    Ok(out)
}

/// Rows of `x` to rows `rows` of `pool`. Row numbers are in range.
pub(super) fn scatter(problem: &PoolRows, pool: &mut HostTensor, rows: &[u32], x: &TensorData) {
    let len = problem.row_len;
    for (place, &row) in rows.iter().enumerate() {
        copy_elements(pool.elements_mut(), row as usize * len, x, place * len, len);
    }
}
