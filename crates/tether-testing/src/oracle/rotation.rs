//! Rotations of tokens by positions.

use tether_core::{Rotation, TokenLayout, TokenShape};

/// `x` rotated, by plain sines and cosines.
pub fn rotate_tokens(x: &[f32], shape: &TokenShape, rotation: &Rotation<'_>) -> Vec<f32> {
    let mut out = x.to_vec();
    for_each_pair(shape, rotation, |i, j, delta, frequency| {
        let angle = f64::from(delta) * frequency;
        let (a, b) = (f64::from(x[i]), f64::from(x[j]));
        let scale = f64::from(rotation.scale);
        out[i] = (scale * (a * angle.cos() - b * angle.sin())) as f32;
        out[j] = (scale * (a * angle.sin() + b * angle.cos())) as f32;
    });
    out
}

/// Which elements a rotation may change: those of pairs that turn or are scaled.
pub fn rotated_elements(shape: &TokenShape, rotation: &Rotation<'_>) -> Vec<bool> {
    let mut changed = vec![false; shape.len()];
    for_each_pair(shape, rotation, |i, j, delta, _| {
        let turns = delta != 0 || rotation.scale != 1.0;
        (changed[i], changed[j]) = (turns, turns);
    });
    changed
}

fn for_each_pair(shape: &TokenShape, rotation: &Rotation<'_>, mut pair: impl FnMut(usize, usize, i32, f64)) {
    for token in 0..shape.tokens {
        for head in 0..shape.heads {
            let start = match shape.layout {
                TokenLayout::Nhd => (token * shape.heads + head) * shape.head_dim,
                TokenLayout::Hnd => (head * shape.tokens + token) * shape.head_dim,
            };
            for (p, &frequency) in rotation.frequencies.iter().enumerate() {
                let axis = if rotation.axes.is_empty() { 0 } else { usize::from(rotation.axes[p]) };
                let delta = rotation.deltas[axis][token / rotation.tokens_per_delta];
                let p = rotation.first_pair + p;
                let (i, j) = match rotation.pairing {
                    tether_core::Pairing::Interleaved => (2 * p, 2 * p + 1),
                    tether_core::Pairing::Half => (p, rotation.rotary_dim / 2 + p),
                };
                pair(start + i, start + j, delta, frequency);
            }
        }
    }
}
