//! Compaction.

use tether_core::{TokenLayout, TokenShape};

/// Rows `indices[head, i]` of each head.
pub fn gather_token_rows(x: &[f32], shape: &TokenShape, indices: &[u32]) -> Vec<f32> {
    let kept = indices.len() / shape.heads;
    let row = |token: usize, head: usize| {
        let row = match shape.layout {
            TokenLayout::Nhd => token * shape.heads + head,
            TokenLayout::Hnd => head * shape.tokens + token,
        };
        x[row * shape.head_dim..][..shape.head_dim].iter().copied()
    };
    let chosen = |head: usize, i: usize| row(indices[head * kept + i] as usize, head);
    match shape.layout {
        TokenLayout::Nhd => {
            (0..kept).flat_map(|i| (0..shape.heads).flat_map(move |h| chosen(h, i))).collect()
        }
        TokenLayout::Hnd => {
            (0..shape.heads).flat_map(|h| (0..kept).flat_map(move |i| chosen(h, i))).collect()
        }
    }
}
