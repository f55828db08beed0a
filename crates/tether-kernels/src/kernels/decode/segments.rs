//! Whole results of two sets of tokens, merged.

use cubecl::prelude::*;

/// Attention to both of two sets of tokens, one thread for each number of the output. A row that saw nothing of either
/// set is as it is of the other.
#[cube(launch_unchecked)]
pub(crate) fn merge_segments<F: Float>(
    one: &Array<F>,
    one_lse: &Array<f32>,
    other: &Array<F>,
    other_lse: &Array<f32>,
    out: &mut Array<F>,
    lse: &mut Array<f32>,
    rows: u32,
    dim: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    let row = at / dim;
    if row < rows {
        let a = one_lse[row as usize];
        let b = other_lse[row as usize];
        let highest = a.max(b);
        // What saw nothing has a finite stand-in for no weight, which must not become one.
        let of_a = select(a > f32::new(-1e29), (a - highest).exp(), 0.0f32);
        let of_b = select(b > f32::new(-1e29), (b - highest).exp(), 0.0f32);
        let weights = of_a + of_b;
        let any = weights > 0.0f32;
        let mut number = 0.0f32;
        if of_a > 0.0f32 {
            number += of_a / weights * f32::cast_from(one[at as usize]);
        }
        if of_b > 0.0f32 {
            number += of_b / weights * f32::cast_from(other[at as usize]);
        }
        out[at as usize] = F::cast_from(number);
        if at % dim == 0u32 {
            lse[row as usize] = select(any, highest + weights.ln(), f32::new(-1e30));
        }
    }
}
