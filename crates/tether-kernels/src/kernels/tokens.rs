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

/// Rotates the tokens of `from` into `to`. A thread takes one item of one token and `heads_per_thread` heads: with half-split pairs
/// an item is a vector and its partner, with interleaved pairs it is a vector of whole pairs; with `N = 1` it is two elements. Items
/// beyond `pair_items` are vectors that no pair touches, which are copied. Strides count vectors.
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
    let vector = N::value();
    let width = N::value() as u32;
    let item = ABSOLUTE_POS as u32 % items;
    let rest = ABSOLUTE_POS as u32 / items;
    let (token, block) = if comptime!(tokens_outermost) {
        (rest / head_blocks, rest % head_blocks)
    } else {
        (rest % tokens, rest / tokens)
    };
    if token < tokens && block < head_blocks {
        let entry = token / tokens_per_delta;
        let place = token * token_stride + block * head_stride;
        let head_step = head_blocks * head_stride;
        if item < pair_items {
            let item = item + first_item;
            if comptime!(half || vector == 1) {
                let spread = comptime!(if half { 1u32 } else { 2u32 });
                // Loads first: they are under way while sines and cosines are worked out.
                let at = place + item * spread;
                let mut a = Array::<Vector<F, N>>::new(heads_per_thread);
                let mut b = Array::<Vector<F, N>>::new(heads_per_thread);
                #[unroll]
                for h in 0..heads_per_thread {
                    a[h] = from[(at + h as u32 * head_step) as usize];
                    b[h] = from[(at + h as u32 * head_step + partner) as usize];
                }
                let mut cos = Vector::<f32, N>::empty();
                let mut sin = Vector::<f32, N>::empty();
                let mut turns = Array::<bool>::new(N::value());
                #[unroll]
                for i in 0..N::value() {
                    let pair = item * width + i as u32 - first_pair;
                    let inside = pair < pair_count;
                    let phase = phase_of(pairs, deltas, select(inside, pair, 0u32), entry, entries);
                    // What does not move keeps its bits.
                    turns[i] = inside && (phase != 0u32 || scale != 1.0f32);
                    let (c, s) = turn(phase);
                    cos[i] = c * scale;
                    sin[i] = s * scale;
                }
                #[unroll]
                for h in 0..heads_per_thread {
                    let x = Vector::<f32, N>::cast_from(a[h]);
                    let y = Vector::<f32, N>::cast_from(b[h]);
                    let turned_x = Vector::<F, N>::cast_from(x * cos - y * sin);
                    let turned_y = Vector::<F, N>::cast_from(y * cos + x * sin);
                    let mut out_x = Vector::<F, N>::empty();
                    let mut out_y = Vector::<F, N>::empty();
                    #[unroll]
                    for i in 0..N::value() {
                        out_x[i] = select(turns[i], turned_x[i], a[h][i]);
                        out_y[i] = select(turns[i], turned_y[i], b[h][i]);
                    }
                    to[(at + h as u32 * head_step) as usize] = out_x;
                    to[(at + h as u32 * head_step + partner) as usize] = out_y;
                }
            } else {
                let in_vector = comptime!(vector / 2);
                let at = place + item;
                let mut a = Array::<Vector<F, N>>::new(heads_per_thread);
                #[unroll]
                for h in 0..heads_per_thread {
                    a[h] = from[(at + h as u32 * head_step) as usize];
                }
                let mut cos = Array::<f32>::new(in_vector);
                let mut sin = Array::<f32>::new(in_vector);
                let mut turns = Array::<bool>::new(in_vector);
                #[unroll]
                for i in 0..in_vector {
                    let pair = item * (width / 2) + i as u32 - first_pair;
                    let inside = pair < pair_count;
                    let phase = phase_of(pairs, deltas, select(inside, pair, 0u32), entry, entries);
                    // What does not move keeps its bits.
                    turns[i] = inside && (phase != 0u32 || scale != 1.0f32);
                    let (c, s) = turn(phase);
                    cos[i] = c * scale;
                    sin[i] = s * scale;
                }
                #[unroll]
                for h in 0..heads_per_thread {
                    let mut out = Vector::<F, N>::empty();
                    #[unroll]
                    for i in 0..in_vector {
                        let x = f32::cast_from(a[h][2 * i]);
                        let y = f32::cast_from(a[h][2 * i + 1]);
                        out[2 * i] = select(turns[i], F::cast_from(x * cos[i] - y * sin[i]), a[h][2 * i]);
                        out[2 * i + 1] =
                            select(turns[i], F::cast_from(y * cos[i] + x * sin[i]), a[h][2 * i + 1]);
                    }
                    to[(at + h as u32 * head_step) as usize] = out;
                }
            }
        } else {
            let at = place + tail + (item - pair_items);
            #[unroll]
            for h in 0..heads_per_thread {
                to[(at + h as u32 * head_step) as usize] = from[(at + h as u32 * head_step) as usize];
            }
        }
    }
}
