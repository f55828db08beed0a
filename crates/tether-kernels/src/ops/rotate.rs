//! Rotations of tokens by positions, in place or into a copy.

use cubecl::prelude::*;
use tether_core::{DType, Pairing, RotationExtents, StoreSpec, TokenLayout, TokenShape, UnitToRotate};

use super::attend::Buffer;
use crate::cube::launch::{Inline, array, flat_by, spread, vector_size, with_storage, words};
use crate::kernels::{rotate, tokens};
use crate::{CubeRotation, CubeTensor};

/// Turns per position, modulo one, as 64-bit fixed point (high word, low word), so that a position times a frequency wraps exactly.
pub(crate) fn fixed_point_turns(radians: f64) -> (u32, u32) {
    let turns = (radians / std::f64::consts::TAU).rem_euclid(1.0);
    // Two steps: an f64 has 53 bits, so that its low ones survive only when the high word is taken off first.
    let high = (turns * 2f64.powi(32)).floor();
    let low = ((turns * 2f64.powi(32) - high) * 2f64.powi(32)).floor();
    (high as u32, low as u32)
}

/// How a rotation is spread over threads. Items and strides count vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blueprint {
    vector: usize,
    /// Items of a token's head that a thread each takes, and those of them that may turn.
    items: usize,
    pair_items: usize,
    first_item: usize,
    /// From a vector to its partner: half-split pairs; `N = 1` of interleaved ones.
    partner: usize,
    heads_per_thread: usize,
}

impl Blueprint {
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        shape: &TokenShape,
        rotation: &RotationExtents,
        bytes: usize,
        whole: bool,
    ) -> Self {
        let half = rotation.pairing == Pairing::Half;
        let (dim, rotary, first) = (shape.head_dim, rotation.rotary_dim, rotation.first_pair);
        let first = if whole { 0 } else { first };
        let vector = if half {
            vector_size(client, bytes, &[dim, rotary / 2, first])
        } else {
            vector_size(client, bytes, &[dim, 2 * first])
        };
        let heads_per_thread = [4, 3, 2].into_iter().find(|n| shape.heads.is_multiple_of(*n)).unwrap_or(1);
        // In vectors, of pairs where an item holds pairs, of channels where a vector does.
        let pairs_in_item = if half || vector == 1 { vector } else { vector / 2 };
        let pair_items = if whole {
            if half || vector == 1 { rotary / 2 / vector } else { dim / vector }
        } else {
            rotation.pairs.div_ceil(pairs_in_item)
        };
        let tail = if whole && (half || vector == 1) { (dim - rotary) / vector } else { 0 };
        let partner = if half { rotary / 2 / vector } else { 1 };
        Self {
            vector,
            items: pair_items + tail,
            pair_items,
            first_item: first / pairs_in_item,
            partner,
            heads_per_thread,
        }
    }
}

/// Rows that a thread of a run takes, and threads of its cube.
const RUN_ROWS: usize = 4;
const RUN_THREADS: u32 = 128;

/// Rows in memory that share a delta, where there are enough of them that a cube works out its angles once for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Runs {
    outers: usize,
    rows: usize,
    run: usize,
    /// Cubes that share a run, and vectors of a row.
    chunks: usize,
    row: usize,
}

impl Runs {
    fn new(shape: &TokenShape, rotation: &RotationExtents, print: &Blueprint) -> Option<Self> {
        if shape.is_empty()
            || print.items == 0
            || print.items > RUN_THREADS as usize
            || rotation.pairs > tokens::RUN_PAIRS
        {
            return None;
        }
        let (outers, of_token) = match shape.layout {
            TokenLayout::Nhd => (1, shape.heads),
            TokenLayout::Hnd => (shape.heads, 1),
        };
        let rows = shape.tokens * of_token;
        let run = rotation.tokens_per_delta.min(shape.tokens) * of_token;
        let of_cube = RUN_THREADS as usize / print.items * RUN_ROWS;
        let chunks = run.div_ceil(of_cube);
        // A run that ends early leaves threads of its last cube without work.
        (run * 4 >= chunks * of_cube * 3).then_some(Self {
            outers,
            rows,
            run,
            chunks,
            row: shape.head_dim / print.vector,
        })
    }
}

fn launch_runs<R: Runtime>(
    client: &ComputeClient<R>,
    rotation: &CubeRotation,
    from: &CubeTensor,
    to: Option<&CubeTensor>,
    print: &Blueprint,
    runs: &Runs,
) {
    let extents = &rotation.extents;
    let vectors = from.len() / print.vector;
    let entries = runs.rows.div_ceil(runs.run);
    let (x, y) = spread(runs.outers * entries * runs.chunks);
    with_storage!(from.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `outers` blocks of `rows` rows; items and partners lie in a row by the blueprint, entries and pairs in
        // their tables by `RotationExtents::fit`, pairs in shared memory by `Runs::new`.
        unsafe {
            tokens::rotate_runs::launch_unchecked::<F, R>(
                client, CubeCount::Static(x, y, 1), CubeDim::new_1d(RUN_THREADS), print.vector,
                array(&from.handle, vectors),
                array(&rotation.pairs, (3 * extents.pairs).max(1)),
                array(&rotation.deltas, (extents.axes * extents.entries).max(1)),
                to.map_or(ArrayArg::Alias { input_pos: 0, length: [vectors] }, |to| array(&to.handle, vectors)),
                runs.outers as u32,
                runs.rows as u32,
                runs.run as u32,
                runs.chunks as u32,
                runs.row as u32,
                print.items as u32,
                print.pair_items as u32,
                entries as u32,
                print.first_item as u32,
                extents.first_pair as u32,
                extents.pairs as u32,
                print.partner as u32,
                (extents.rotary_dim / print.vector) as u32,
                rotation.scale,
                extents.pairing == Pairing::Half,
                RUN_ROWS,
            );
        }
    });
}

/// Rotates `from` into `to`, which may be the same tensor; then only what turns is read.
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &TokenShape,
    rotation: &CubeRotation,
    from: &CubeTensor,
    to: Option<&CubeTensor>,
) {
    let extents = &rotation.extents;
    let print = Blueprint::new(client, shape, extents, from.dtype.bytes(), to.is_some());
    let vectors = from.len() / print.vector;
    if let Some(runs) = Runs::new(shape, extents, &print) {
        return launch_runs(client, rotation, from, to, &print, &runs);
    }
    let head_blocks = shape.heads / print.heads_per_thread;
    let threads = shape.tokens * head_blocks * print.items;
    if threads == 0 {
        return;
    }
    let (count, dim) = flat_by(threads, 64);
    with_storage!(from.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `tokens` tokens and `head_blocks` blocks; items and partners lie in a head by the blueprint, pairs and
        // entries in their tables by `RotationExtents::fit`.
        unsafe {
            tokens::rotate_tokens::launch_unchecked::<F, R>(
                client, count, dim, print.vector,
                array(&from.handle, vectors),
                array(&rotation.pairs, (3 * extents.pairs).max(1)),
                array(&rotation.deltas, (extents.axes * extents.entries).max(1)),
                to.map_or(ArrayArg::Alias { input_pos: 0, length: [vectors] }, |to| array(&to.handle, vectors)),
                shape.tokens as u32,
                print.items as u32,
                print.pair_items as u32,
                head_blocks as u32,
                extents.entries as u32,
                extents.tokens_per_delta as u32,
                (shape.token_stride() / print.vector) as u32,
                (shape.head_stride() / print.vector) as u32,
                print.first_item as u32,
                extents.first_pair as u32,
                extents.pairs as u32,
                print.partner as u32,
                (extents.rotary_dim / print.vector) as u32,
                rotation.scale,
                extents.pairing == Pairing::Half,
                print.heads_per_thread,
                shape.layout == TokenLayout::Nhd,
            );
        }
    });
}

/// Threads of a cube that rotates units.
const UNIT_THREADS: u32 = 256;

/// Copies units of a store to places of `to`, rotated. Slots and positions are checked, and `to` has room.
pub(crate) fn launch_units<R: Runtime>(
    client: &ComputeClient<R>,
    spec: &StoreSpec,
    rotation: &CubeRotation,
    (from, from_len): Buffer<'_>,
    (to, to_len): Buffer<'_>,
    units: &[UnitToRotate],
) {
    let extents = &rotation.extents;
    let (heads, head_dim) = spec.rotated_heads(extents);
    let shape = TokenShape { tokens: spec.tokens_per_unit, heads, head_dim, layout: TokenLayout::Nhd };
    let print = Blueprint::new(client, &shape, extents, spec.dtype.bytes(), true);
    let head_blocks = heads / print.heads_per_thread;
    let threads = shape.tokens * head_blocks * print.items;
    if threads == 0 || units.is_empty() {
        return;
    }
    let table: Vec<u32> = units.iter().flat_map(|u| [u.slot.0, u.place as u32, u.position]).collect();
    let (y, z) = spread(units.len());
    let count = CubeCount::Static(threads.div_ceil(UNIT_THREADS as usize) as u32, y, z);
    with_storage!(spec.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at as many units of `tokens` tokens as `table` names; slots, places and positions exist; items and partners lie in a
        // head by the blueprint, pairs in their table by `checks::rotation`.
        unsafe {
            rotate::gather_rotated::launch_unchecked::<F, R>(
                client, count, CubeDim::new_1d(UNIT_THREADS), print.vector,
                array(from, from_len / print.vector),
                words(client, &table, Inline::Never),
                array(&rotation.pairs, (3 * extents.pairs).max(1)),
                array(&rotation.deltas, (extents.axes * extents.entries).max(1)),
                array(to, to_len / print.vector),
                units.len() as u32,
                shape.tokens as u32,
                print.items as u32,
                print.pair_items as u32,
                head_blocks as u32,
                extents.entries as u32,
                (head_dim / print.vector) as u32,
                print.first_item as u32,
                extents.first_pair as u32,
                extents.pairs as u32,
                print.partner as u32,
                (extents.rotary_dim / print.vector) as u32,
                rotation.scale,
                extents.pairing == Pairing::Half,
                print.heads_per_thread,
            );
        }
    });
}

/// Queries `[sequences, tokens, heads, head_dim]` of type `dtype`, of which those of a sequence begin at a unit position each.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    pub dtype: DType,
    pub q: Buffer<'a>,
    pub starts: Buffer<'a>,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub unit_tokens: usize,
}

/// Queries as `f32`, scaled, and rotated where there is a rotation.
pub(crate) fn launch_queries<R: Runtime>(
    client: &ComputeClient<R>,
    queries: Queries<'_>,
    rotation: Option<&CubeRotation>,
    scale: f32,
    out: &cubecl::server::Handle,
) {
    let Queries { dtype, q: (q, len), starts: (starts, starts_len), tokens, unit_tokens, .. } = queries;
    let nothing = client.create_from_slice(u32::as_bytes(&[0]));
    let pairs_and_deltas = match rotation {
        Some(r) => [
            (&r.pairs, (3 * r.extents.pairs).max(1)),
            (&r.deltas, (r.extents.axes * r.extents.entries).max(1)),
        ],
        None => [(&nothing, 1); 2],
    };
    let [pairs, deltas] = pairs_and_deltas.map(|(handle, len)| array(handle, len));
    // As the rotation sees heads.
    let extents = rotation.map(|r| &r.extents);
    let (heads, dim) = match extents {
        Some(e) if e.rotary_dim > queries.head_dim => (1, queries.heads * queries.head_dim),
        _ => (queries.heads, queries.head_dim),
    };
    let of = |what: fn(&RotationExtents) -> usize| extents.map_or(0, what) as u32;
    let (count, threads) = flat_by(if rotation.is_some() { len / 2 } else { len }, UNIT_THREADS);
    with_storage!(dtype, F => rotate::prepare_queries::launch::<F, R>(
        client, count, threads, array(q, len), array(starts, starts_len), pairs, deltas, array(out, len),
        tokens as u32, unit_tokens as u32, heads as u32, dim as u32, of(|e| e.rotary_dim / 2), of(|e| e.first_pair),
        of(|e| e.pairs), of(|e| e.entries), rotation.map_or(1.0, |r| r.scale), scale, rotation.is_some(),
        extents.is_some_and(|e| e.pairing == Pairing::Half),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_wrap_exactly() {
        let (high, low) = fixed_point_turns(std::f64::consts::FRAC_PI_2);
        assert_eq!((high, low), (1 << 30, 0));
        let (high, low) = fixed_point_turns(-std::f64::consts::FRAC_PI_2);
        assert_eq!((high, low), (3 << 30, 0));
        // 131072 positions of one radian, against the same in f64.
        let (high, low) = fixed_point_turns(1.0);
        let turns = (u128::from(high) << 32 | u128::from(low)) * 131_072;
        let got = (turns as u64) as f64 / 2f64.powi(64);
        let expected = (131_072.0 / std::f64::consts::TAU).rem_euclid(1.0);
        assert!((got - expected).abs() < 1e-10, "{got} {expected}");
    }
}
