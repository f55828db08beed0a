//! How rows of a block spread over their channels, in units of the next block.

use cubecl::prelude::*;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 128;

/// The lowest number of each channel over the rows of each block but the first, and one over how far the highest is
/// from it, 0 where it is not: `[heads, blocks, 2, dim]`. `x` is `[heads, tokens, dim]` and has a block more. Cube x
/// counts channels, cube y blocks, cube z heads.
#[cube(launch_unchecked)]
pub(crate) fn block_ranges<F: Float>(
    x: &Array<F>,
    out: &mut Array<f32>,
    tokens: u32,
    dim: u32,
    first: u32,
    size: u32,
) {
    let channel = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if channel < dim {
        let begin = CUBE_POS_Z * tokens + first + (CUBE_POS_Y + 1) * size;
        let mut low = f32::cast_from(x[(begin * dim + channel) as usize]);
        let mut high = low;
        for row in 1..size {
            let number = f32::cast_from(x[((begin + row) * dim + channel) as usize]);
            low = low.min(number);
            high = high.max(number);
        }
        let at = (CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y) * 2 * dim + channel;
        out[at as usize] = low;
        let range = high - low;
        let mut by = 0.0f32;
        if range > 0.0f32 {
            by = 1.0f32 / range;
        }
        out[(at + dim) as usize] = by;
    }
}

/// The deviation over channels of each row of each block of `x`, less the lowest and times one over the range of the
/// next block: `[heads, blocks, size]`.
#[cube(launch_unchecked)]
pub(crate) fn block_spreads<F: Float>(
    x: &Array<F>,
    ranges: &Array<f32>,
    out: &mut Array<f32>,
    heads: u32,
    tokens: u32,
    dim: u32,
    first: u32,
    size: u32,
    blocks: u32,
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * CUBE_DIM_X + UNIT_POS_X;
    if at < heads * blocks * size {
        let head = at / (blocks * size);
        let row = (head * tokens + first + at % (blocks * size)) * dim;
        let of_block = at / size * 2 * dim;
        let mut sum = 0.0f32;
        for channel in 0..dim {
            let low = ranges[(of_block + channel) as usize];
            let by = ranges[(of_block + dim + channel) as usize];
            sum += (f32::cast_from(x[(row + channel) as usize]) - low) * by;
        }
        let mean = sum / f32::cast_from(dim);
        let mut squares = 0.0f32;
        for channel in 0..dim {
            let low = ranges[(of_block + channel) as usize];
            let by = ranges[(of_block + dim + channel) as usize];
            let apart = (f32::cast_from(x[(row + channel) as usize]) - low) * by - mean;
            squares += apart * apart;
        }
        let mut degrees = 1u32;
        if dim > 2 {
            degrees = dim - 1;
        }
        out[at as usize] = (squares / f32::cast_from(degrees)).sqrt();
    }
}
