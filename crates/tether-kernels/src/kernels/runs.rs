//! Threads of a cube that stand next to each other, and what they have together.

use cubecl::prelude::*;

/// Sum over the runs of `lanes` threads that a cube consists of, a power of two, in each of them. Planes are of `plane` threads, or none where that is 0: then, and for runs
/// of several planes, numbers go through `scratch`, one for each thread. All threads of the cube take part.
#[cube]
pub(super) fn sum_of_run(
    value: f32,
    scratch: &mut SharedMemory<f32>,
    #[comptime] lanes: u32,
    #[comptime] plane: u32,
) -> f32 {
    let mut sum = value;
    let together = comptime!(if plane == 0 {
        1
    } else if lanes < plane {
        lanes
    } else {
        plane
    });
    #[unroll]
    for step in 0..comptime!(together.ilog2()) {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << step));
    }
    let parts = comptime!(lanes / together);
    if comptime!(parts > 1) {
        scratch[UNIT_POS as usize] = sum;
        sync_cube();
        let first = UNIT_POS / lanes * lanes;
        sum = 0.0f32;
        for i in 0..parts {
            sum += scratch[(first + i * together) as usize];
        }
        sync_cube();
    }
    sum
}
