//! One obvious reference per operation, in `f64`.

mod codes;
mod decode;
mod gather;
mod leaves;
mod reuse;
mod rotation;
mod rows;
mod spherical;
mod top_k;
mod window;

pub use codes::{LiteralCodes, literal_codes, literal_dequantised, scale_of, unpacked_codes};
pub use decode::{literal_attention, literal_decode};
pub use gather::gather_token_rows;
pub use leaves::{ObservedText, literal_leaf};
pub use reuse::{literal_combination, literal_ladder, literal_signal};
pub use rotation::{rotate_tokens, rotated_elements};
pub use rows::{LiteralNumber, literal_rows};
pub use spherical::{
    LiteralSpherical, literal_radius, literal_restored, literal_spherical, rotation_matrix,
    unpacked_spherical,
};
pub use top_k::sorted_top_k;
pub use window::literal_window_scores;

/// Mean logit of each unit in the literal form: every inner product of a query with a key, scaled and averaged.
///
/// `q` is `[tokens, query_heads, dim]`, each unit `[tokens, kv_heads, dim]`.
pub fn literal_mean_logits(
    q: &[f32],
    units: &[&[f32]],
    query_heads: usize,
    kv_heads: usize,
    dim: usize,
) -> Vec<f64> {
    let group = query_heads / kv_heads;
    units
        .iter()
        .map(|unit| {
            let (mut sum, mut count) = (0f64, 0u64);
            for query in q.chunks_exact(query_heads * dim) {
                for key in unit.chunks_exact(kv_heads * dim) {
                    for head in 0..query_heads {
                        let (q, k) = (&query[head * dim..][..dim], &key[head / group * dim..][..dim]);
                        let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        sum += dot / (dim as f64).sqrt();
                        count += 1;
                    }
                }
            }
            sum / count as f64
        })
        .collect()
}

/// Mean and sum of squared deviations of every channel of `tokens`.
pub fn token_moments(tokens: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let count = (tokens.len() / channels) as f64;
    let column = |c: usize| tokens.iter().skip(c).step_by(channels).map(|&x| f64::from(x));
    let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / count).collect();
    let m2 = (0..channels).map(|c| column(c).map(|x| (x - mean[c]).powi(2)).sum()).collect();
    (mean, m2)
}

/// Wan's 3-D rotary embedding of `tokens` (`[units * height * width, heads, dim]`), unit `i` at position `positions[i]`.
pub fn rotate_3d(
    tokens: &[f32],
    positions: &[i64],
    (height, width): (usize, usize),
    dim: usize,
    theta: f64,
) -> Vec<f32> {
    let per_unit = tokens.len() / positions.len();
    let per_token = per_unit / (height * width);
    let pairs = dim / 2;
    let (rows, columns) = (pairs / 3, pairs / 3);
    let time = pairs - rows - columns;
    let mut out = tokens.to_vec();
    for (i, pair) in out.chunks_exact_mut(2).enumerate() {
        let element = 2 * i;
        let (unit, token) = (element / per_unit, element % per_unit / per_token);
        let p = element % dim / 2;
        let (axis, place, of) = if p < time {
            (positions[unit] as f64, p, time)
        } else if p < time + rows {
            ((token / width) as f64, p - time, rows)
        } else {
            ((token % width) as f64, p - time - rows, columns)
        };
        let angle = axis * theta.powf(-(place as f64) / of as f64);
        let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
        pair[0] = (a * angle.cos() - b * angle.sin()) as f32;
        pair[1] = (a * angle.sin() + b * angle.cos()) as f32;
    }
    out
}

/// Softmax attention without a mask: `q` `[queries, query_heads, dim_k]`, `k` `[keys, kv_heads, dim_k]`, `v` `[keys, kv_heads, dim_v]`;
/// result `[queries, query_heads, dim_v]`.
pub fn dense_attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    (query_heads, kv_heads): (usize, usize),
    (dim_k, dim_v): (usize, usize),
) -> Vec<f32> {
    let group = query_heads / kv_heads;
    let keys = k.len() / (kv_heads * dim_k);
    let mut out = Vec::with_capacity(q.len() / dim_k * dim_v);
    for (i, query) in q.chunks_exact(dim_k).enumerate() {
        let head = i % query_heads / group;
        let logits: Vec<f64> = (0..keys)
            .map(|t| {
                let key = &k[(t * kv_heads + head) * dim_k..][..dim_k];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                dot / (dim_k as f64).sqrt()
            })
            .collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for c in 0..dim_v {
            let sum: f64 = weights
                .iter()
                .enumerate()
                .map(|(t, w)| w * f64::from(v[(t * kv_heads + head) * dim_v + c]))
                .sum();
            out.push((sum / total) as f32);
        }
    }
    out
}
