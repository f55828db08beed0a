//! Inner products of rows with rows: blocks of 64 by 64 out of shared memory, 4 by 4 of them a thread.

use cubecl::prelude::*;

/// Rows of a block on either side.
pub(crate) const BLOCK: u32 = 64;
/// Threads of a cube.
pub(crate) const THREADS: u32 = LANES * LANES;
/// Threads along the rows of one side, and along those of the other.
pub(crate) const LANES: u32 = 16;
/// Rows of a thread, on either side.
pub(crate) const EACH: u32 = BLOCK / LANES;
/// Channels in shared memory at a time.
pub(crate) const DEPTH: u32 = 16;
/// Words from a channel to the next in shared memory: one more than there are, or all writes of a token would meet in
/// one bank.
pub(crate) const STRIDE: u32 = BLOCK + 1;

/// Channels `depth..depth + DEPTH` of rows `first..first + rows`; zero where there are none.
#[cube]
fn stage<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    to: &mut SharedMemory<f32>,
    first: u32,
    rows: u32,
    dim: u32,
    depth: u32,
) {
    let width = N::value();
    let vectors = comptime!(DEPTH / width as u32);
    #[unroll]
    for part in 0..comptime!((BLOCK * DEPTH / width as u32).div_ceil(THREADS)) {
        let vector = part * THREADS + UNIT_POS;
        let row = vector / vectors;
        let channel = vector % vectors * width as u32;
        if row < BLOCK {
            let mut values = Vector::<F, N>::new(F::from_int(0));
            if row < rows && depth + channel < dim {
                values = from[(((first + row) * dim + depth + channel) / width as u32) as usize];
            }
            #[unroll]
            for i in 0..width {
                to[((channel + i as u32) * STRIDE + row) as usize] = f32::cast_from(values[i]);
            }
        }
    }
}

/// Inner products of rows `lane_y + 16 i` of a block of `q` with rows `lane_x + 16 j` of one of `k`, at `EACH i + j`.
#[cube]
pub(crate) fn products<A: Float, M: Size, F: Float, N: Size>(
    q: &Array<Vector<A, M>>,
    k: &Array<Vector<F, N>>,
    rows_of: &mut SharedMemory<f32>,
    tokens_of: &mut SharedMemory<f32>,
    first_query: u32,
    rows: u32,
    first_key: u32,
    tokens: u32,
    dim: u32,
) -> Array<f32> {
    let lane_x = UNIT_POS % LANES;
    let lane_y = UNIT_POS / LANES;
    let mut sums = Array::<f32>::new(comptime!((EACH * EACH) as usize));
    #[unroll]
    for i in 0..comptime!((EACH * EACH) as usize) {
        sums[i] = 0.0f32;
    }
    for step in 0..dim.div_ceil(DEPTH) {
        sync_cube();
        stage::<A, M>(q, rows_of, first_query, rows, dim, step * DEPTH);
        stage::<F, N>(k, tokens_of, first_key, tokens, dim, step * DEPTH);
        sync_cube();
        #[unroll]
        for d in 0..DEPTH {
            let mut keys = Array::<f32>::new(EACH as usize);
            #[unroll]
            for j in 0..EACH {
                keys[j as usize] = tokens_of[(d * STRIDE + lane_x + LANES * j) as usize];
            }
            #[unroll]
            for i in 0..EACH {
                let query = rows_of[(d * STRIDE + lane_y + LANES * i) as usize];
                #[unroll]
                for j in 0..EACH {
                    sums[(EACH * i + j) as usize] += query * keys[j as usize];
                }
            }
        }
    }
    sums
}
