//! Block attention that was cut by its keys, put together.

use cubecl::prelude::*;

/// `out[row] = sum over parts of 2^(highest[part] - max) sums[part] / sum of the same weights`, for the tasks from `whole` on, as
/// [`super::attend_matrix`] left them. One row a cube, one channel a thread.
#[cube(launch_unchecked)]
pub(crate) fn attend_parts(
    part_sums: &Array<f32>,
    part_weights: &Array<f32>,
    out: &mut Array<f32>,
    query_tokens: u32,
    kv_heads: u32,
    group: u32,
    whole: u32,
    parts: u32,
    dim_v: u32,
    task_rows: u32,
) {
    let rows = group * query_tokens;
    let row_blocks = rows.div_ceil(task_rows);
    let task = whole + CUBE_POS_Y;
    let local = CUBE_POS_X;
    let row = task % row_blocks * task_rows + local;
    let kv_head = task / row_blocks % kv_heads;
    let sequence = task / row_blocks / kv_heads;
    let channel = UNIT_POS_X;
    if row < rows && channel < dim_v {
        let first = CUBE_POS_Y * parts * task_rows + local;
        let mut highest = f32::new(-1e30);
        for part in 0..parts {
            highest = highest.max(part_weights[(2u32 * (first + part * task_rows)) as usize]);
        }
        let mut weights = 0.0f32;
        let mut sum = 0.0f32;
        for part in 0..parts {
            let at = first + part * task_rows;
            let scale = f32::new(2.0).powf(part_weights[(2u32 * at) as usize] - highest);
            weights += scale * part_weights[(2u32 * at + 1u32) as usize];
            sum += scale * part_sums[(at * dim_v + channel) as usize];
        }
        let head = kv_head * group + row / query_tokens;
        let to = (sequence * query_tokens + row % query_tokens) * kv_heads * group + head;
        out[(to * dim_v + channel) as usize] = sum / weights;
    }
}
