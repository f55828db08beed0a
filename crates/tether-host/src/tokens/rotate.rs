//! Rotations of every head of every token.

use half::{bf16, f16};
use rayon::prelude::*;
use tether_core::{ElementsMut, RotationPhases, TokenLayout, TokenShape};

/// Rotates tokens that fit.
pub(super) fn apply(phases: &RotationPhases, data: ElementsMut<'_>, shape: &TokenShape, parallel: bool) {
    if shape.is_empty() {
        return;
    }
    match data {
        ElementsMut::F32(data) => rows(phases, data, shape, parallel, |x| x, |x| x),
        ElementsMut::F16(data) => rows(phases, data, shape, parallel, f16::to_f32, f16::from_f32),
        ElementsMut::BF16(data) => rows(phases, data, shape, parallel, bf16::to_f32, bf16::from_f32),
    }
}

fn rows<T: Copy + Send>(
    phases: &RotationPhases,
    data: &mut [T],
    shape: &TokenShape,
    parallel: bool,
    widen: impl Fn(T) -> f32 + Sync,
    narrow: impl Fn(f32) -> T + Sync,
) {
    let rotate = |(row, head): (usize, &mut [T])| {
        let token = match shape.layout {
            TokenLayout::Nhd => row / shape.heads,
            TokenLayout::Hnd => row % shape.tokens,
        };
        phases.rotate(token, head, &widen, &narrow);
    };
    if parallel {
        data.par_chunks_exact_mut(shape.head_dim).enumerate().for_each(rotate);
    } else {
        data.chunks_exact_mut(shape.head_dim).enumerate().for_each(rotate);
    }
}
