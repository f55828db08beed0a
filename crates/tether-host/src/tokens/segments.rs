//! Rows that are made of others, rows that stand for many, and bounds of pages.

use std::ops::Range;

use tether_core::{
    CoreError, DType, HostTensor, RowLists, StandInProblem, StandIns, TensorData, check_bounds, merge_partial,
};

use super::HostIndices;
use crate::Host;

fn of_dtype(what: &'static str, tensor: &HostTensor, expected: DType) -> Result<(), CoreError> {
    let got = tensor.dtype();
    if got == expected { Ok(()) } else { Err(CoreError::DTypeMismatch { what, expected, got }) }
}

/// Weighted means of rows of a pool of rows of `len` numbers; lists fit it.
pub(super) fn weighted_rows(
    pool: &HostTensor,
    len: usize,
    lists: &RowLists<'_>,
    dtype: DType,
) -> Result<HostTensor, CoreError> {
    let mut means = Vec::with_capacity(lists.len() * len);
    let mut row = vec![0f32; len];
    for bounds in lists.starts.windows(2) {
        let (mut sum, mut total) = (vec![0f64; len], 0.0);
        for entry in bounds[0] as usize..bounds[1] as usize {
            let weight = f64::from(lists.weights[entry]);
            pool.data().widen_into(lists.rows[entry] as usize * len, &mut row);
            sum.iter_mut().zip(&row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
            total += weight;
        }
        let total = if total == 0.0 { 1.0 } else { total };
        means.extend(sum.into_iter().map(|sum| (sum / total) as f32));
    }
    HostTensor::new(&[lists.len(), len], TensorData::narrowed(dtype, &means))
}

/// Merges attention to stand-ins.
pub(super) fn attend_stand_ins(
    q: &HostTensor,
    stand_ins: &StandIns<'_, Host>,
    tokens: Range<usize>,
    scale: f32,
    (out, lse): (&mut HostTensor, &mut HostTensor),
) -> Result<(), CoreError> {
    let StandIns { keys, values, biases } = stand_ins;
    let shapes = (keys.shape(), values.shape(), biases.shape());
    let problem = StandInProblem::new(q.shape(), (out.shape(), lse.shape()), shapes, &tokens)?;
    for (what, tensor) in
        [("keys of stand-ins", *keys), ("values of stand-ins", values), ("biases of stand-ins", biases)]
    {
        of_dtype(what, tensor, DType::F32)?;
    }
    of_dtype("log-sum-exps", lse, DType::F32)?;
    of_dtype("out", out, q.dtype())?;
    let StandInProblem { kv_heads, group, head_dim_k, head_dim_v } = problem;
    let [keys, values, biases] = [keys, values, biases].map(|tensor| tensor.to_f32_vec());
    let (queries, mut outs, mut lses) = (q.to_f32_vec(), out.to_f32_vec(), lse.to_f32_vec());
    let query_heads = kv_heads * group;
    for row in tokens.start * query_heads..tokens.end * query_heads {
        let head = row % query_heads / group;
        let (query, key) = (&queries[row * head_dim_k..][..head_dim_k], &keys[head * head_dim_k..]);
        let dot: f32 = query.iter().zip(key).map(|(a, b)| a * b).sum();
        let logit =
            if biases[head] <= tether_core::EMPTY_LSE { biases[head] } else { dot * scale + biases[head] };
        let own = (&mut outs[row * head_dim_v..][..head_dim_v], std::slice::from_mut(&mut lses[row]));
        merge_partial(own, (&values[head * head_dim_v..][..head_dim_v], &[logit]))?;
    }
    *out = HostTensor::new(out.shape(), TensorData::narrowed(out.dtype(), &outs))?;
    *lse = HostTensor::from_f32(lse.shape(), lses)?;
    Ok(())
}

/// Writes bounds of parts of pages.
pub(super) fn write_page_bounds(
    bounds: &mut HostTensor,
    keys: &HostTensor,
    which: &HostIndices,
) -> Result<(), CoreError> {
    let size = check_bounds((keys.shape(), keys.dtype()), (bounds.shape(), bounds.dtype()))?;
    let dim = keys.shape()[3];
    which.below("parts of pages", bounds.shape()[0] * bounds.shape()[1])?;
    for &part in which.values() {
        let part = part as usize;
        let rows = keys.data().widened(part * size * dim..(part + 1) * size * dim);
        let mut found = [rows[..dim].to_vec(), rows[..dim].to_vec()];
        for row in rows.chunks_exact(dim) {
            found[0].iter_mut().zip(row).for_each(|(low, &x)| *low = low.min(x));
            found[1].iter_mut().zip(row).for_each(|(high, &x)| *high = high.max(x));
        }
        let found = TensorData::narrowed(keys.dtype(), &found.concat());
        crate::store::copy_elements(bounds.elements_mut(), part * 2 * dim, &found, 0, 2 * dim);
    }
    Ok(())
}
