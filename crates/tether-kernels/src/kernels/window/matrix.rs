//! The two passes on matrix units: CUDA's 16 x 8 x 16 product of 16 tokens and 8 query rows.
//!
//! Queries stay in registers for the whole launch, keys pass through shared memory. A warp has `octets` times 8 query rows, and a share of each
//! tile's tokens. Thread `lane` of a warp holds, of a product, tokens `lane / 4` and `lane / 4 + 8` of query rows `2 (lane % 4)` and one more: so a
//! row's sum over the tokens and a token's sum over the rows are sums of a thread's own values until the very end.

mod operands;

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;

use super::{
    Extents, MASKED, NOTHING, block_of_cube, exp2, first_row, first_tile, log_of, log_sum, rows_of_block,
    tiles_of_cube,
};
use operands::{CHUNK, copy_tile, load_queries, products, read_tile, write_tile};

/// Sums beyond this get a new reference: far from what `f32` holds, and far above what a reference that is merely not the highest gives.
const LARGE: f32 = 1e30;

/// How the matrix kernels are cut. All of it is known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Matrix {
    /// Channels, a multiple of 16.
    pub dim: u32,
    /// Tokens of a tile in shared memory.
    pub tile: u32,
    /// Times 8 query rows of a warp.
    pub octets: u32,
    /// Warps along the query rows.
    pub row_warps: u32,
    /// Warps along the tokens of a tile.
    pub token_warps: u32,
    /// Times 16 tokens whose products a warp has under way at once.
    pub blocks: u32,
    /// Copies to shared memory run by themselves, else through registers.
    pub copies: bool,
    /// Keys are rows of a pool, and which ones is told, else they lie together.
    pub paged: bool,
}

impl Matrix {
    /// Query rows of a cube.
    pub(crate) const fn rows(&self) -> u32 {
        self.row_warps * self.octets * 8
    }

    /// Threads of a cube.
    pub(crate) const fn threads(&self) -> u32 {
        32 * self.row_warps * self.token_warps
    }

    /// Chunks from a token to the next in shared memory: an odd number, so that the 8 rows of a matrix load lie in different banks.
    const fn stride(&self) -> u32 {
        self.dim / CHUNK + 1
    }

    /// Chunks of a tile.
    const fn tile_chunks(&self) -> u32 {
        self.tile * self.dim / CHUNK
    }

    /// Chunks of a tile that a thread copies, at most.
    const fn own_chunks(&self) -> u32 {
        self.tile_chunks().div_ceil(self.threads())
    }

    /// Times that a warp works on `blocks` in a tile.
    const fn rounds(&self) -> u32 {
        self.tile / (self.token_warps * self.blocks * 16)
    }

    /// Bytes of shared memory.
    pub(crate) const fn shared_bytes(&self) -> u32 {
        2 * self.tile * self.stride() * 16 + (2 * self.row_warps * self.tile + self.rows()) * 4 + 64
    }
}

/// `logs[block, part]`: for each row, `log2` of the sum of `2^logit` over the part's tokens that it sees. Parts are cubes times token warps. The
/// scale must be positive.
#[cube(launch_unchecked, fast_math = FastMath::all())]
pub(crate) fn matrix_log_sums<F: Float, N: Size, NQ: Size>(
    q: &Array<Vector<F, NQ>>,
    k: &Array<Vector<F, N>>,
    rows_of_keys: &Array<u32>,
    logs: &mut Array<f32>,
    extents: &Extents,
    scale: f32,
    #[comptime] plan: Matrix,
) {
    let size!(NB) = 2usize;
    let mut keys = SharedMemory::<Vector<F, N>>::new_aligned(
        comptime!((2 * plan.tile * plan.stride()) as usize),
        16usize,
    );
    let lane = UNIT_POS % 32;
    let quad = lane % 4;
    let row_warp = UNIT_POS / 32 % plan.row_warps;
    let token_warp = UNIT_POS / 32 / plan.row_warps;
    let head = CUBE_POS_Z;
    let first = first_row(extents, comptime!(plan.rows()));
    let rows = rows_of_block(extents, comptime!(plan.rows()));
    let tokens = extents.tokens;
    let prefix = tokens - extents.window;
    let tiles = tokens.div_ceil(plan.tile);
    let begin = first_tile(tiles);
    let count = tiles_of_cube(tiles);

    let mut chunks = Array::<Vector<F, N>>::new(comptime!(plan.own_chunks() as usize));
    let mut barriers = Sequence::<Shared<Barrier>>::new();
    if comptime!(plan.copies) {
        barriers.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
        copy_tile::<F, N>(k, rows_of_keys, &mut keys, 0u32, head, begin, tokens, plan);
        barriers.index(0usize).commit_copy_async();
    } else {
        read_tile::<F, N>(k, rows_of_keys, &mut chunks, head, begin, tokens, plan);
        write_tile::<F, N>(&mut keys, &chunks, 0u32, plan);
    }
    let queries = load_queries::<F, NQ, NB>(q, head * extents.rows + first, rows, plan);
    let columns = comptime!((plan.octets * 2) as usize);
    let mut references = Array::<f32>::new(columns);
    let mut sums = Array::<f32>::new(columns);
    #[unroll]
    for column in 0..columns {
        references[column] = f32::new(NOTHING);
        sums[column] = 0.0f32;
    }
    if comptime!(plan.copies) {
        barriers.index(0usize).arrive_and_wait();
    } else {
        sync_cube();
    }
    for i in 0..count {
        let tile = begin + i;
        let buffer = i % 2;
        // After the last tile comes the last tile once more, which is cheaper than a branch.
        let next = select(i + 1 < count, tile + 1, tile);
        if comptime!(plan.copies) {
            copy_tile::<F, N>(k, rows_of_keys, &mut keys, 1 - buffer, head, next, tokens, plan);
            barriers.index(0usize).commit_copy_async();
        } else {
            read_tile::<F, N>(k, rows_of_keys, &mut chunks, head, next, tokens, plan);
        }
        for round in 0..comptime!(plan.rounds()) {
            let share = (token_warp * comptime!(plan.rounds()) + round) * comptime!(plan.blocks * 16);
            let mut logits = products::<F, N, NB>(&keys, &queries, buffer * plan.tile + share, plan);
            let token = tile * plan.tile + share + lane / 4;
            if tile * plan.tile + plan.tile > prefix {
                #[unroll]
                for m in 0..plan.blocks {
                    #[unroll]
                    for n in 0..plan.octets {
                        #[unroll]
                        for h in 0..2u32 {
                            #[unroll]
                            for c in 0..2u32 {
                                let row = first + (row_warp * plan.octets + n) * 8 + 2 * quad + c;
                                let seen = token + m * 16 + h * 8 <= prefix + row % extents.window;
                                let at = (((m * plan.octets + n) * 2 + h) * 2 + c) as usize;
                                logits[at] = select(seen, logits[at], f32::new(MASKED));
                            }
                        }
                    }
                }
            }
            let mut grown = Array::<f32>::new(columns);
            let mut largest = f32::new(0.0);
            #[unroll]
            for n in 0..plan.octets {
                #[unroll]
                for c in 0..2u32 {
                    let column = (n * 2 + c) as usize;
                    let mut sum = sums[column];
                    #[unroll]
                    for m in 0..plan.blocks {
                        #[unroll]
                        for h in 0..2u32 {
                            let at = (((m * plan.octets + n) * 2 + h) * 2 + c) as usize;
                            sum += exp2(logits[at] * scale - references[column], true);
                        }
                    }
                    grown[column] = sum;
                    largest = largest.max(sum);
                }
            }
            if largest > f32::new(LARGE) {
                // Seldom: the first time, and when a logit is far above all before it.
                #[unroll]
                for n in 0..plan.octets {
                    #[unroll]
                    for c in 0..2u32 {
                        let column = (n * 2 + c) as usize;
                        let mut reference = references[column];
                        #[unroll]
                        for m in 0..plan.blocks {
                            #[unroll]
                            for h in 0..2u32 {
                                let at = (((m * plan.octets + n) * 2 + h) * 2 + c) as usize;
                                reference = reference.max(logits[at] * scale);
                            }
                        }
                        let mut sum = sums[column] * exp2(references[column] - reference, true);
                        #[unroll]
                        for m in 0..plan.blocks {
                            #[unroll]
                            for h in 0..2u32 {
                                let at = (((m * plan.octets + n) * 2 + h) * 2 + c) as usize;
                                sum += exp2(logits[at] * scale - reference, true);
                            }
                        }
                        grown[column] = sum;
                        references[column] = reference;
                    }
                }
            }
            #[unroll]
            for column in 0..columns {
                sums[column] = grown[column];
            }
        }
        if comptime!(plan.copies) {
            barriers.index(0usize).arrive_and_wait();
        } else {
            write_tile::<F, N>(&mut keys, &chunks, 1 - buffer, plan);
            sync_cube();
        }
    }
    // The 8 threads of a row agree.
    #[unroll]
    for column in 0..columns {
        let mut reference = references[column];
        let mut sum = sums[column];
        #[unroll]
        for step in 0..3u32 {
            let mask = 4u32 << step;
            let other = plane_shuffle_xor(reference, mask);
            let other_sum = plane_shuffle_xor(sum, mask);
            let higher = reference.max(other);
            sum = sum * exp2(reference - higher, true) + other_sum * exp2(other - higher, true);
            reference = higher;
        }
        if lane < 4u32 {
            let row = (row_warp * plan.octets + comptime!(column as u32 / 2)) * 8
                + 2 * lane
                + comptime!(column as u32 % 2);
            let part = CUBE_POS_X * plan.token_warps + token_warp;
            let parts = CUBE_COUNT_X * plan.token_warps;
            let at = (block_of_cube() * parts + part) * comptime!(plan.rows()) + row;
            logs[at as usize] = log_of(reference, sum);
        }
    }
}

/// `weights[block, token]`: softmax weights added up over the block's rows, times `factor`, of the tokens before the window.
#[cube(launch_unchecked, fast_math = FastMath::all())]
pub(crate) fn matrix_weights<F: Float, N: Size, NQ: Size>(
    q: &Array<Vector<F, NQ>>,
    k: &Array<Vector<F, N>>,
    rows_of_keys: &Array<u32>,
    logs: &Array<f32>,
    weights: &mut Array<f32>,
    extents: &Extents,
    parts: u32,
    scale: f32,
    factor: f32,
    #[comptime] plan: Matrix,
) {
    let size!(NB) = 2usize;
    let mut keys = SharedMemory::<Vector<F, N>>::new_aligned(
        comptime!((2 * plan.tile * plan.stride()) as usize),
        16usize,
    );
    let mut log_sums = SharedMemory::<f32>::new(comptime!(plan.rows() as usize));
    let mut totals = SharedMemory::<f32>::new(comptime!((2 * plan.row_warps * plan.tile) as usize));
    let lane = UNIT_POS % 32;
    let quad = lane % 4;
    let row_warp = UNIT_POS / 32 % plan.row_warps;
    let token_warp = UNIT_POS / 32 / plan.row_warps;
    let head = CUBE_POS_Z;
    let first = first_row(extents, comptime!(plan.rows()));
    let rows = rows_of_block(extents, comptime!(plan.rows()));
    let tokens = extents.tokens;
    let prefix = tokens - extents.window;
    let tiles = prefix.div_ceil(plan.tile);
    let count = tiles_of_cube(tiles);
    // Backwards: what the first pass read last is what a cache still has.
    let begin = first_tile(tiles) + count - 1;

    let mut chunks = Array::<Vector<F, N>>::new(comptime!(plan.own_chunks() as usize));
    let mut barriers = Sequence::<Shared<Barrier>>::new();
    if comptime!(plan.copies) {
        barriers.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
        copy_tile::<F, N>(k, rows_of_keys, &mut keys, 0u32, head, begin, tokens, plan);
        barriers.index(0usize).commit_copy_async();
    } else {
        read_tile::<F, N>(k, rows_of_keys, &mut chunks, head, begin, tokens, plan);
        write_tile::<F, N>(&mut keys, &chunks, 0u32, plan);
    }
    let queries = load_queries::<F, NQ, NB>(q, head * extents.rows + first, rows, plan);
    #[unroll]
    for i in 0..comptime!(plan.rows().div_ceil(plan.threads())) {
        let row = i * comptime!(plan.threads()) + UNIT_POS;
        if row < comptime!(plan.rows()) {
            let log = log_sum(logs, row, parts, comptime!(plan.rows()), true);
            // Rows that are not there weigh nothing.
            log_sums[row as usize] = select(row < rows, log, f32::new(-MASKED));
        }
    }
    sync_cube();
    let columns = comptime!((plan.octets * 2) as usize);
    let mut references = Array::<f32>::new(columns);
    #[unroll]
    for n in 0..plan.octets {
        #[unroll]
        for c in 0..2u32 {
            let row = (row_warp * plan.octets + n) * 8 + 2 * quad + c;
            references[(n * 2 + c) as usize] = log_sums[row as usize];
        }
    }
    if comptime!(plan.copies) {
        barriers.index(0usize).arrive_and_wait();
    }
    for i in 0..count {
        let tile = begin - i;
        let buffer = i % 2;
        let next = select(i + 1 < count, tile - 1, tile);
        if comptime!(plan.copies) {
            copy_tile::<F, N>(k, rows_of_keys, &mut keys, 1 - buffer, head, next, tokens, plan);
            barriers.index(0usize).commit_copy_async();
        } else {
            read_tile::<F, N>(k, rows_of_keys, &mut chunks, head, next, tokens, plan);
        }
        for round in 0..comptime!(plan.rounds()) {
            let share = (token_warp * comptime!(plan.rounds()) + round) * comptime!(plan.blocks * 16);
            let logits = products::<F, N, NB>(&keys, &queries, buffer * plan.tile + share, plan);
            #[unroll]
            for m in 0..plan.blocks {
                #[unroll]
                for h in 0..2u32 {
                    let mut sum = 0.0f32;
                    #[unroll]
                    for n in 0..plan.octets {
                        #[unroll]
                        for c in 0..2u32 {
                            let at = (((m * plan.octets + n) * 2 + h) * 2 + c) as usize;
                            sum += exp2(logits[at] * scale - references[(n * 2 + c) as usize], true);
                        }
                    }
                    sum += plane_shuffle_xor(sum, 1u32);
                    sum += plane_shuffle_xor(sum, 2u32);
                    if quad == 0u32 {
                        let place = share + m * 16 + h * 8 + lane / 4;
                        totals[((buffer * plan.row_warps + row_warp) * plan.tile + place) as usize] = sum;
                    }
                }
            }
        }
        if comptime!(plan.copies) {
            barriers.index(0usize).arrive_and_wait();
        } else {
            write_tile::<F, N>(&mut keys, &chunks, 1 - buffer, plan);
            sync_cube();
        }
        // The next tile's sums go to the other half, so that nobody waits for these to be read.
        #[unroll]
        for part in 0..comptime!(plan.tile.div_ceil(plan.threads())) {
            let place = part * comptime!(plan.threads()) + UNIT_POS;
            let token = tile * plan.tile + place;
            if place < plan.tile && token < prefix {
                let mut total = 0.0f32;
                #[unroll]
                for warp in 0..plan.row_warps {
                    total += totals[((buffer * plan.row_warps + warp) * plan.tile + place) as usize];
                }
                weights[(block_of_cube() * prefix + token) as usize] = total * factor;
            }
        }
    }
}
