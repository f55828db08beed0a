//! Leaves of keys alone.

use crate::tokens::scorers::norm;

pub(super) fn norms(rows: &[f32], dim: usize) -> Vec<f32> {
    rows.chunks_exact(dim.max(1)).map(|row| norm(row) as f32).collect()
}

/// Cosines of one head's keys and their mean direction.
pub(super) fn mean_cosines(keys: &[f32], dim: usize) -> Vec<f32> {
    let norms: Vec<f64> = keys.chunks_exact(dim).map(norm).collect();
    let mut anchor = vec![0f64; dim];
    for (key, &norm) in keys.chunks_exact(dim).zip(&norms) {
        anchor.iter_mut().zip(key).for_each(|(a, &x)| *a += f64::from(x) / norm.max(1e-12));
    }
    let length = anchor.iter().map(|a| a * a).sum::<f64>().sqrt().max(1e-12);
    let cosine = |(key, &norm): (&[f32], &f64)| {
        let dot: f64 = key.iter().zip(&anchor).map(|(&x, a)| f64::from(x) * a).sum();
        (dot / (norm.max(1e-12) * length)) as f32
    };
    keys.chunks_exact(dim).zip(&norms).map(cosine).collect()
}

/// What keeps a key of no length from being divided by it.
const EPSILON: f64 = 1e-8;

/// The mean cosine of each of one head's keys and the other ones.
pub(super) fn redundancy(keys: &[f32], dim: usize) -> Vec<f32> {
    let tokens = keys.len() / dim;
    let lengths: Vec<f64> = keys.chunks_exact(dim).map(|key| norm(key) + EPSILON).collect();
    let mut sum = vec![0f64; dim];
    for (key, length) in keys.chunks_exact(dim).zip(&lengths) {
        sum.iter_mut().zip(key).for_each(|(s, &x)| *s += f64::from(x) / length);
    }
    // The cosine of a key and itself is among the sum; a single key is like no other.
    let mean = |(key, length): (&[f32], &f64)| {
        let dot: f64 = key.iter().zip(&sum).map(|(&x, s)| f64::from(x) * s).sum();
        let own = (length - EPSILON) / length;
        ((dot / length - own * own) / tokens as f64) as f32
    };
    keys.chunks_exact(dim).zip(&lengths).map(mean).collect()
}
