//! Rotation of tokens by positions.

use cubecl::prelude::*;

/// Cosine and sine of `phase` / 2^32 turns. Written out, because the sine of Vulkan and WebGPU may be off by 2^-11.
#[cube]
pub(crate) fn turn(phase: u32) -> (f32, f32) {
    let quarter = (phase + 0x2000_0000u32) >> 30u32;
    let rest = i32::cast_from(phase - (quarter << 30u32));
    // pi / 2 over 2^30.
    let x = f32::cast_from(rest) * f32::new(1.462_918_1e-9);
    let xx = x * x;
    let sin = x + x
        * xx
        * (f32::new(-1.666_665_5e-1) + xx * (f32::new(8.332_161e-3) + xx * f32::new(-1.951_529_6e-4)));
    let cos = f32::new(1.0) - f32::new(0.5) * xx
        + xx * xx
            * (f32::new(4.166_664_6e-2) + xx * (f32::new(-1.388_731_6e-3) + xx * f32::new(2.443_315_7e-5)));
    let odd = (quarter & 1u32) == 1u32;
    let c = select(odd, sin, cos);
    let s = select(odd, cos, sin);
    let c = select(quarter == 1u32 || quarter == 2u32, -c, c);
    let s = select(quarter >= 2u32, -s, s);
    (c, s)
}

/// Phase of pair `pair` of the rotation at delta entry `entry`.
#[cube]
fn phase_of(pairs: &Array<u32>, deltas: &Array<u32>, pair: u32, entry: u32, entries: u32) -> u32 {
    let at = (pair * 3) as usize;
    let high = pairs[at];
    let low = pairs[at + 1];
    let axis = pairs[at + 2];
    let delta = i32::cast_from(deltas[(axis * entries + entry) as usize]);
    let magnitude = u32::cast_from(delta.abs());
    let phase = magnitude * high + magnitude.mul_hi(low);
    select(delta < 0i32, 0u32 - phase, phase)
}

/// Cosine and sine of pair `pair`, scaled, and whether it turns at all: what does not move keeps its bits. A pair of another part of
/// the head does not turn.
#[cube]
pub(super) fn angle(
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    pair: u32,
    pair_count: u32,
    entry: u32,
    entries: u32,
    scale: f32,
) -> (f32, f32, bool) {
    let inside = pair < pair_count;
    let phase = phase_of(pairs, deltas, select(inside, pair, 0u32), entry, entries);
    let (cos, sin) = turn(phase);
    (cos * scale, sin * scale, inside && (phase != 0u32 || scale != 1.0f32))
}

/// The first and the second numbers of a vector of pairs, turned.
#[cube]
fn turned_halves<F: Float, N: Size>(
    a: Vector<F, N>,
    b: Vector<F, N>,
    cos: Vector<f32, N>,
    sin: Vector<f32, N>,
    turns: &Array<bool>,
) -> (Vector<F, N>, Vector<F, N>) {
    let x = Vector::<f32, N>::cast_from(a);
    let y = Vector::<f32, N>::cast_from(b);
    let turned_x = Vector::<F, N>::cast_from(x * cos - y * sin);
    let turned_y = Vector::<F, N>::cast_from(y * cos + x * sin);
    let mut out_x = Vector::<F, N>::empty();
    let mut out_y = Vector::<F, N>::empty();
    #[unroll]
    for i in 0..N::value() {
        out_x[i] = select(turns[i], turned_x[i], a[i]);
        out_y[i] = select(turns[i], turned_y[i], b[i]);
    }
    (out_x, out_y)
}

/// A vector of pairs, one number after the other, turned.
#[cube]
fn turned_pairs<F: Float, N: Size>(
    a: Vector<F, N>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    turns: &Array<bool>,
) -> Vector<F, N> {
    let vector = N::value();
    let in_vector = comptime!(vector / 2);
    let mut out = Vector::<F, N>::empty();
    #[unroll]
    for i in 0..in_vector {
        let x = f32::cast_from(a[2 * i]);
        let y = f32::cast_from(a[2 * i + 1]);
        out[2 * i] = select(turns[i], F::cast_from(x * cos[i] - y * sin[i]), a[2 * i]);
        out[2 * i + 1] = select(turns[i], F::cast_from(y * cos[i] + x * sin[i]), a[2 * i + 1]);
    }
    out
}

/// Rotates an item of `heads_per_thread` heads of a token that begins at `source` of `from` into `target` of `to`. With half-split pairs an item is a
/// vector and its partner, with interleaved pairs it is a vector of whole pairs; with `N = 1` it is two elements. Items beyond `pair_items` are vectors
/// that no pair touches, which are copied. Strides count vectors.
#[cube]
pub(super) fn rotate_item<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    to: &mut Array<Vector<F, N>>,
    source: u32,
    target: u32,
    item: u32,
    pair_items: u32,
    head_step: u32,
    entry: u32,
    entries: u32,
    first_item: u32,
    first_pair: u32,
    pair_count: u32,
    partner: u32,
    tail: u32,
    scale: f32,
    #[comptime] half: bool,
    #[comptime] heads_per_thread: usize,
) {
    let vector = N::value();
    let width = N::value() as u32;
    if item < pair_items {
        let item = item + first_item;
        if comptime!(half || vector == 1) {
            let spread = comptime!(if half { 1u32 } else { 2u32 });
            // Loads first: they are under way while sines and cosines are worked out.
            let within = item * spread;
            let mut a = Array::<Vector<F, N>>::new(heads_per_thread);
            let mut b = Array::<Vector<F, N>>::new(heads_per_thread);
            #[unroll]
            for h in 0..heads_per_thread {
                a[h] = from[(source + within + h as u32 * head_step) as usize];
                b[h] = from[(source + within + h as u32 * head_step + partner) as usize];
            }
            let mut cos = Vector::<f32, N>::empty();
            let mut sin = Vector::<f32, N>::empty();
            let mut turns = Array::<bool>::new(N::value());
            #[unroll]
            for i in 0..N::value() {
                let pair = item * width + i as u32 - first_pair;
                let (c, s, turn) = angle(pairs, deltas, pair, pair_count, entry, entries, scale);
                cos[i] = c;
                sin[i] = s;
                turns[i] = turn;
            }
            #[unroll]
            for h in 0..heads_per_thread {
                let (x, y) = turned_halves::<F, N>(a[h], b[h], cos, sin, &turns);
                to[(target + within + h as u32 * head_step) as usize] = x;
                to[(target + within + h as u32 * head_step + partner) as usize] = y;
            }
        } else {
            let in_vector = comptime!(vector / 2);
            let mut a = Array::<Vector<F, N>>::new(heads_per_thread);
            #[unroll]
            for h in 0..heads_per_thread {
                a[h] = from[(source + item + h as u32 * head_step) as usize];
            }
            let mut cos = Array::<f32>::new(in_vector);
            let mut sin = Array::<f32>::new(in_vector);
            let mut turns = Array::<bool>::new(in_vector);
            #[unroll]
            for i in 0..in_vector {
                let pair = item * (width / 2) + i as u32 - first_pair;
                let (c, s, turn) = angle(pairs, deltas, pair, pair_count, entry, entries, scale);
                cos[i] = c;
                sin[i] = s;
                turns[i] = turn;
            }
            #[unroll]
            for h in 0..heads_per_thread {
                to[(target + item + h as u32 * head_step) as usize] =
                    turned_pairs::<F, N>(a[h], &cos, &sin, &turns);
            }
        }
    } else {
        let within = tail + (item - pair_items);
        #[unroll]
        for h in 0..heads_per_thread {
            to[(target + within + h as u32 * head_step) as usize] =
                from[(source + within + h as u32 * head_step) as usize];
        }
    }
}

/// Rotates the tokens of `from` into `to`. A thread takes one item of one token and `heads_per_thread` heads; see [`rotate_item`].
#[cube(launch_unchecked)]
pub(crate) fn rotate_tokens<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    to: &mut Array<Vector<F, N>>,
    tokens: u32,
    items: u32,
    pair_items: u32,
    head_blocks: u32,
    entries: u32,
    tokens_per_delta: u32,
    token_stride: u32,
    head_stride: u32,
    first_item: u32,
    first_pair: u32,
    pair_count: u32,
    partner: u32,
    tail: u32,
    scale: f32,
    #[comptime] half: bool,
    #[comptime] heads_per_thread: usize,
    #[comptime] tokens_outermost: bool,
) {
    let item = ABSOLUTE_POS as u32 % items;
    let rest = ABSOLUTE_POS as u32 / items;
    let (token, block) = if comptime!(tokens_outermost) {
        (rest / head_blocks, rest % head_blocks)
    } else {
        (rest % tokens, rest / tokens)
    };
    if token < tokens && block < head_blocks {
        let place = token * token_stride + block * head_stride;
        rotate_item::<F, N>(
            from,
            pairs,
            deltas,
            to,
            place,
            place,
            item,
            pair_items,
            head_blocks * head_stride,
            token / tokens_per_delta,
            entries,
            first_item,
            first_pair,
            pair_count,
            partner,
            tail,
            scale,
            half,
            heads_per_thread,
        );
    }
}

/// Most pairs whose angles a cube of [`rotate_runs`] holds.
pub(crate) const RUN_PAIRS: usize = 128;

/// [`rotate_tokens`] where many rows in memory share a delta, as a frame's tokens do: a cube works out the angles of its delta once. `outers`
/// blocks of `rows` rows each follow each other, and `run` rows in a row share an entry; a cube takes one of the `chunks` parts of a run. A thread
/// takes one item of `rows_per_thread` rows. Sizes of rows count vectors.
#[cube(launch_unchecked)]
pub(crate) fn rotate_runs<F: Float, N: Size>(
    from: &Array<Vector<F, N>>,
    pairs: &Array<u32>,
    deltas: &Array<u32>,
    to: &mut Array<Vector<F, N>>,
    outers: u32,
    rows: u32,
    run: u32,
    chunks: u32,
    row: u32,
    items: u32,
    pair_items: u32,
    entries: u32,
    first_item: u32,
    first_pair: u32,
    pair_count: u32,
    partner: u32,
    tail: u32,
    scale: f32,
    #[comptime] half: bool,
    #[comptime] rows_per_thread: usize,
) {
    let vector = N::value();
    let split = comptime!(half || vector == 1);
    let in_item = comptime!(if split { vector } else { vector / 2 });
    let mut cosines = SharedMemory::<f32>::new(RUN_PAIRS);
    let mut sines = SharedMemory::<f32>::new(RUN_PAIRS);
    let mut turning = SharedMemory::<u32>::new(RUN_PAIRS);

    let cube = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let chunk = cube % chunks;
    let entry = cube / chunks % entries;
    let outer = cube / (chunks * entries);

    let lanes = CUBE_DIM / items;
    let lane = UNIT_POS / items;
    let item = UNIT_POS % items;
    let turns_here = item < pair_items;
    let place = item + first_item;
    let offset = select(
        turns_here,
        place * comptime!(if half || vector > 1 { 1u32 } else { 2u32 }),
        tail + item - pair_items,
    );
    let mut ats = Array::<u32>::new(rows_per_thread);
    let mut inside = Array::<bool>::new(rows_per_thread);
    // Loads first: they are under way while sines and cosines are worked out.
    let mut a = Array::<Vector<F, N>>::new(rows_per_thread);
    let mut b = Array::<Vector<F, N>>::new(rows_per_thread);
    #[unroll]
    for i in 0..rows_per_thread {
        let of_run = (chunk * comptime!(rows_per_thread as u32) + i as u32) * lanes + lane;
        let at_row = entry * run + of_run;
        inside[i] = lane < lanes && of_run < run && at_row < rows && outer < outers;
        ats[i] = (outer * rows + at_row) * row + offset;
        if inside[i] {
            let at = ats[i];
            a[i] = from[at as usize];
            if split && turns_here {
                b[i] = from[(at + partner) as usize];
            }
        }
    }
    let mut pair = UNIT_POS;
    while pair < pair_count {
        let (c, s, turn) = angle(pairs, deltas, pair, pair_count, entry, entries, scale);
        cosines[pair as usize] = c;
        sines[pair as usize] = s;
        turning[pair as usize] = u32::cast_from(turn);
        pair += CUBE_DIM;
    }
    sync_cube();
    if turns_here {
        let mut cos = Array::<f32>::new(in_item);
        let mut sin = Array::<f32>::new(in_item);
        let mut turns = Array::<bool>::new(in_item);
        #[unroll]
        for i in 0..in_item {
            let pair = place * comptime!(in_item as u32) + i as u32 - first_pair;
            let known = select(pair < pair_count, pair, 0u32) as usize;
            cos[i] = cosines[known];
            sin[i] = sines[known];
            turns[i] = pair < pair_count && turning[known] != 0u32;
        }
        #[unroll]
        for i in 0..rows_per_thread {
            if inside[i] {
                let at = ats[i];
                if split {
                    let mut c = Vector::<f32, N>::empty();
                    let mut s = Vector::<f32, N>::empty();
                    #[unroll]
                    for j in 0..in_item {
                        c[j] = cos[j];
                        s[j] = sin[j];
                    }
                    let (x, y) = turned_halves::<F, N>(a[i], b[i], c, s, &turns);
                    to[at as usize] = x;
                    to[(at + partner) as usize] = y;
                } else {
                    to[at as usize] = turned_pairs::<F, N>(a[i], &cos, &sin, &turns);
                }
            }
        }
    } else {
        #[unroll]
        for i in 0..rows_per_thread {
            if inside[i] {
                let at = ats[i];
                to[at as usize] = a[i];
            }
        }
    }
}
