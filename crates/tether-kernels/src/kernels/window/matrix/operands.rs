//! Queries in registers, keys through shared memory, and their products.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

use super::Matrix;

/// Channels of a product.
const DEPTH: u32 = 16;
/// Elements of a 16-byte access.
pub(super) const CHUNK: u32 = 8;

/// This thread's query rows, as the second operand of products.
#[cube]
pub(super) fn load_queries<F: Float, NQ: Size, NB: Size>(
    q: &Array<Vector<F, NQ>>,
    first: u32,
    rows: u32,
    #[comptime] plan: Matrix,
) -> Sequence<Array<Vector<F, NB>>> {
    let lane = UNIT_POS % 32;
    let warp = UNIT_POS / 32 % plan.row_warps;
    let mut queries = Sequence::<Array<Vector<F, NB>>>::new();
    #[unroll]
    for octet in 0..plan.octets {
        let row = (warp * plan.octets + octet) * 8 + lane / 4;
        #[unroll]
        for step in 0..comptime!(plan.dim / DEPTH) {
            let mut b = Array::<Vector<F, NB>>::new(2usize);
            #[unroll]
            for half in 0..2u32 {
                let mut pair = Vector::<F, NB>::new(F::from_int(0));
                if row < rows {
                    let at = ((first + row) * plan.dim + step * DEPTH) / 2 + lane % 4 + half * 4;
                    pair = Vector::cast_from(q[at as usize]);
                }
                b[half as usize] = pair;
            }
            queries.push(b);
        }
    }
    queries
}

/// Where chunk `i` of this thread lies in the keys. Past the last token stands the last token: it is masked later.
#[cube]
fn chunk_in_keys(
    rows: &Array<u32>,
    head: u32,
    tile: u32,
    tokens: u32,
    i: u32,
    #[comptime] plan: Matrix,
) -> u32 {
    let chunk = i * comptime!(plan.threads()) + UNIT_POS;
    let chunks = comptime!(plan.dim / CHUNK);
    let token = tile * plan.tile + chunk / chunks;
    let token = select(token < tokens, token, tokens - 1);
    let at = head * tokens + token;
    let row = if comptime!(plan.paged) { rows[at as usize] } else { at };
    row * chunks + chunk % chunks
}

/// Where chunk `i` of this thread lies in a shared tile.
#[cube]
fn chunk_in_tile(buffer: u32, i: u32, #[comptime] plan: Matrix) -> u32 {
    let chunk = i * comptime!(plan.threads()) + UNIT_POS;
    let chunks = comptime!(plan.dim / CHUNK);
    (buffer * plan.tile + chunk / chunks) * comptime!(plan.stride()) + chunk % chunks
}

/// Starts the copy of a tile.
#[cube]
pub(super) fn copy_tile<F: Float, N: Size>(
    k: &Array<Vector<F, N>>,
    rows: &Array<u32>,
    keys: &mut SharedMemory<Vector<F, N>>,
    buffer: u32,
    head: u32,
    tile: u32,
    tokens: u32,
    #[comptime] plan: Matrix,
) {
    #[unroll]
    for i in 0..comptime!(plan.own_chunks()) {
        if i * comptime!(plan.threads()) + UNIT_POS < comptime!(plan.tile_chunks()) {
            let from = chunk_in_keys(rows, head, tile, tokens, i, plan) as usize;
            let to = chunk_in_tile(buffer, i, plan) as usize;
            copy_async(&k.slice(from, from + 1), &mut keys.slice_mut(to, to + 1), CHUNK);
        }
    }
}

/// Reads this thread's chunks of a tile.
#[cube]
pub(super) fn read_tile<F: Float, N: Size>(
    k: &Array<Vector<F, N>>,
    rows: &Array<u32>,
    chunks: &mut Array<Vector<F, N>>,
    head: u32,
    tile: u32,
    tokens: u32,
    #[comptime] plan: Matrix,
) {
    #[unroll]
    for i in 0..comptime!(plan.own_chunks()) {
        if i * comptime!(plan.threads()) + UNIT_POS < comptime!(plan.tile_chunks()) {
            chunks[i as usize] = k[chunk_in_keys(rows, head, tile, tokens, i, plan) as usize];
        }
    }
}

/// Writes what [`read_tile`] read.
#[cube]
pub(super) fn write_tile<F: Float, N: Size>(
    keys: &mut SharedMemory<Vector<F, N>>,
    chunks: &Array<Vector<F, N>>,
    buffer: u32,
    #[comptime] plan: Matrix,
) {
    #[unroll]
    for i in 0..comptime!(plan.own_chunks()) {
        if i * comptime!(plan.threads()) + UNIT_POS < comptime!(plan.tile_chunks()) {
            keys[chunk_in_tile(buffer, i, plan) as usize] = chunks[i as usize];
        }
    }
}

/// Products of `plan.blocks` times 16 tokens from `place` of a shared tile: that of block `m`, octet `n`, token half `h` and row `c` is at
/// `((m octets + n) 2 + h) 2 + c`.
#[cube]
pub(super) fn products<F: Float, N: Size, NB: Size>(
    keys: &SharedMemory<Vector<F, N>>,
    queries: &Sequence<Array<Vector<F, NB>>>,
    place: u32,
    #[comptime] plan: Matrix,
) -> Array<f32> {
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let size!(N2) = 2usize;
    let lane = UNIT_POS % 32;
    let blocks = comptime!(plan.blocks as usize);
    let octets = comptime!(plan.octets as usize);
    let steps = comptime!((plan.dim / DEPTH) as usize);
    let mut sums = Sequence::<Array<Vector<f32, N2>>>::new();
    #[unroll]
    for _ in 0..comptime!(blocks * octets) {
        let mut c = Array::<Vector<f32, N2>>::new(2usize);
        c[0] = Vector::new(0.0f32);
        c[1] = Vector::new(0.0f32);
        sums.push(c);
    }
    // Row of a matrix load that this thread names: 8 rows by 8 channels, then the next 8 rows, then the same of the next 8 channels.
    let row = (place + lane % 16) * comptime!(plan.stride()) + lane / 16;
    #[unroll]
    for step in 0..steps {
        #[unroll]
        for block in 0..blocks {
            let at = (row + comptime!(block as u32 * 16 * plan.stride() + step as u32 * 2)) as usize;
            let a =
                def.load_matrix::<Vector<F, N>, N2>(&keys.slice(at, at + 1), MatrixIdent::A, 4usize, false);
            #[unroll]
            for octet in 0..octets {
                def.execute_inplace(
                    &a,
                    queries.index(comptime!(octet * steps + step)),
                    sums.index_mut(comptime!(block * octets + octet)),
                );
            }
        }
    }
    let mut products = Array::<f32>::new(comptime!(blocks * octets * 4));
    #[unroll]
    for i in 0..comptime!(blocks * octets) {
        let c = sums.index(i);
        #[unroll]
        for half in 0..2usize {
            #[unroll]
            for column in 0..2usize {
                products[comptime!((i * 2 + half) * 2 + column)] = c[half][column];
            }
        }
    }
    products
}
