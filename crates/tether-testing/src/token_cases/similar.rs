//! Rows that leave join those that are most like them.

use tether_core::{CoreError, DType, SimilarRows, TokenEngine};

use super::assert_refused;
use crate::tensors::{poison, random, read};
use crate::{Op, assert_close, tolerance};

/// Rows that stay and that leave, channels of keys and values, the least cosine, and how many join at most.
type Case = (usize, usize, (usize, usize), f32, usize);

const ROWS: [Case; 7] = [
    (1, 1, (64, 64), 0.0, 1),
    (7, 20, (6, 10), 0.0, 20),
    (40, 33, (32, 32), 0.1, 33),
    (150, 300, (128, 200), 0.0, 300),
    (30, 90, (80, 96), -1.0, 25),
    (5, 0, (64, 64), 0.0, 0),
    (12, 9, (256, 128), 0.0, 0),
];

/// Values of rows that leave join those of the rows whose keys are most like theirs.
///
/// # Errors
/// What the engine refuses.
///
/// # Panics
/// When a number is wrong.
pub fn joins_similar_rows<E: TokenEngine>(engine: &E, dtype: DType) -> Result<(), CoreError> {
    for (i, (stays, leaves, (dk, dv), threshold, most)) in ROWS.into_iter().enumerate() {
        let seed = 2_401 + 10 * i as u64;
        let all = stays + leaves + 2;
        let (k, v) = (random(seed, &[all, 1, dk], dtype, 0.1), random(seed + 1, &[all, 1, dv], dtype, 0.0));
        let numbers: Vec<u32> = (0..all as u32).rev().collect();
        let (kept, leaving) = (&numbers[..stays], &numbers[stays..stays + leaves]);
        let (keys, values) = (engine.upload(&k)?, engine.upload(&v)?);
        let of = |rows: &[u32]| engine.upload_indices(&[rows.len()], rows);
        let (on_kept, on_leaving) = (of(kept)?, of(leaving)?);
        let rows = SimilarRows {
            keys: &keys,
            values: &values,
            kept: &on_kept,
            leaving: &on_leaving,
            threshold,
            most,
        };
        if !engine.joins_similar() {
            assert_refused!(engine.join_similar(&rows), CoreError::Unsupported { .. });
            continue;
        }
        let wide = |x: &tether_core::HostTensor, row: u32, dim: usize| -> Vec<f64> {
            x.to_f32_vec()[row as usize * dim..][..dim].iter().map(|&x| f64::from(x)).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let length = |a: &[f64]| dot(a, a).sqrt();
        let keys_of: Vec<Vec<f64>> = kept.iter().map(|&r| wide(&k, r, dk)).collect();
        let mut joins: Vec<(usize, u32, f64)> = Vec::new();
        for &row in leaving {
            let key = wide(&k, row, dk);
            let cosine = |other: &Vec<f64>| dot(&key, other) / (length(&key) * length(other));
            let cosines = keys_of.iter().map(cosine).enumerate();
            let best = cosines.fold((0, f64::MIN), |a, b| if b.1 > a.1 { b } else { a });
            joins.push((best.0, row, best.1));
        }
        joins.sort_by(|a, b| b.2.total_cmp(&a.2));
        joins.truncate(most);
        let mut expected = Vec::new();
        for (place, &row) in kept.iter().enumerate() {
            let mut sum = wide(&v, row, dv);
            let (own, mut total) = (length(&sum), 1.0);
            for (_, from, cosine) in joins.iter().filter(|j| j.0 == place && j.2 >= f64::from(threshold)) {
                let value = wide(&v, *from, dv);
                let weight = cosine.max(0.0) * length(&value) / (length(&value) + own + 1e-6);
                sum.iter_mut().zip(&value).for_each(|(s, x)| *s += weight * x);
                total += weight;
            }
            expected.extend(sum.into_iter().map(|s| (s / total) as f32));
        }
        poison(engine, stays * dv)?;
        let got = read(engine, &engine.join_similar(&rows)?)?;
        assert_eq!(got.shape(), [stays, dv]);
        let what = format!("{leaves} rows of {dk} join {stays}, {most} at most, {dtype}");
        assert_close(&what, &got.to_f32_vec(), &expected, tolerance(Op::Moments, dtype));
        let odd = engine.upload_indices(&[1, stays.max(1)], &vec![0; stays.max(1)])?;
        assert_refused!(
            engine.join_similar(&SimilarRows { kept: &odd, ..rows }),
            CoreError::ShapeMismatch { .. }
        );
    }
    Ok(())
}
