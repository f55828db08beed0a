//! Sums over tensors in one pass and one order: what cubes leave is added up on the host, in double precision.
//!
//! Every thread of a launch goes around its loops equally often, with conditions inside (see `top_k`), and no sum is atomic.

use cubecl::prelude::*;

use crate::kernels::runs::sum_of_run;

/// Threads of a cube.
pub(crate) const THREADS: u32 = 256;
/// Vectors of each tensor that a thread reads before it looks at the first of them.
pub(crate) const AT_ONCE: u32 = 4;
/// Numbers that a cube of [`sum_magnitudes`] leaves.
pub(crate) const SUMS: u32 = 3;

/// Vectors `at`, `at + step`, .. of a stretch of `len` vectors that begins at `origin`; any of the stretch in place of those beyond it.
#[cube]
fn load<F: Numeric, N: Size>(
    from: &Array<Vector<F, N>>,
    held: &mut Array<Vector<F, N>>,
    origin: u32,
    at: u32,
    #[comptime] step: u32,
    len: u32,
) {
    #[unroll]
    for i in 0..AT_ONCE {
        let at = at + i * step;
        held[i as usize] = from[(origin + select(at < len, at, 0)) as usize];
    }
}

/// Sum of a vector's elements, the first one first.
#[cube]
fn sum_of_elements<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += values[i];
    }
    sum
}

/// Leaves `sum |a - b|`, `sum |a|` and `sum |b|` of a cube's share at `out[first + 3 * cube ..]`, or `sum |a|` alone between zeros without a
/// `pair`. Both have `len` vectors, of which a's first one is `ahead`. Cubes go over the tensors side by side, in `rounds` strides.
#[cube(launch_unchecked)]
pub(crate) fn sum_magnitudes<F: Float, N: Size>(
    a: &Array<Vector<F, N>>,
    b: &Array<Vector<F, N>>,
    out: &mut Array<f32>,
    ahead: u32,
    len: u32,
    rounds: u32,
    first: u32,
    #[comptime] pair: bool,
    #[comptime] plane: u32,
) {
    let mut scratch = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let mut held_a = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    let mut held_b = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    let mut apart = Vector::<f32, N>::new(0.0f32);
    let mut of_a = Vector::<f32, N>::new(0.0f32);
    let mut of_b = Vector::<f32, N>::new(0.0f32);
    let share = comptime!(THREADS * AT_ONCE);
    let mut at = CUBE_POS_X * share + UNIT_POS;
    for _ in 0..rounds {
        load(a, &mut held_a, ahead, at, THREADS, len);
        if comptime!(pair) {
            load(b, &mut held_b, 0, at, THREADS, len);
        }
        #[unroll]
        for i in 0..AT_ONCE {
            if at + i * THREADS < len {
                let x = Vector::<f32, N>::cast_from(held_a[i as usize]);
                of_a += x.abs();
                if comptime!(pair) {
                    let y = Vector::<f32, N>::cast_from(held_b[i as usize]);
                    apart += (x - y).abs();
                    of_b += y.abs();
                }
            }
        }
        at += CUBE_COUNT_X * share;
    }
    let of_a = sum_of_run(sum_of_elements(of_a), &mut scratch, THREADS, plane);
    let mut sum_apart = 0.0f32;
    let mut sum_b = 0.0f32;
    if comptime!(pair) {
        sum_apart = sum_of_run(sum_of_elements(apart), &mut scratch, THREADS, plane);
        sum_b = sum_of_run(sum_of_elements(of_b), &mut scratch, THREADS, plane);
    }
    if UNIT_POS == 0 {
        let place = first + SUMS * CUBE_POS_X;
        out[place as usize] = sum_apart;
        out[(place + 1) as usize] = of_a;
        out[(place + 2) as usize] = sum_b;
    }
}

/// Leaves the sum of `|a|_2 / |b|_2` over a cube's tokens at `out[first + cube]`. Tokens have `width` vectors; runs of `lanes` threads take one
/// each, in `strides` strides, and cubes go over the tokens in `rounds`. Lengths of b below `smallest` count as that.
#[cube(launch_unchecked)]
pub(crate) fn sum_token_ratios<F: Float, N: Size>(
    a: &Array<Vector<F, N>>,
    b: &Array<Vector<F, N>>,
    out: &mut Array<f32>,
    tokens: u32,
    width: u32,
    rounds: u32,
    strides: u32,
    first: u32,
    smallest: f32,
    #[comptime] lanes: u32,
    #[comptime] plane: u32,
) {
    let mut scratch = SharedMemory::<f32>::new(comptime!(THREADS as usize));
    let mut held_a = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    let mut held_b = Array::<Vector<F, N>>::new(comptime!(AT_ONCE as usize));
    let lane = UNIT_POS % lanes;
    let in_cube = comptime!(THREADS / lanes);
    let mut token = CUBE_POS_X * in_cube + UNIT_POS / lanes;
    let mut total = 0.0f32;
    for _ in 0..rounds {
        let inside = token < tokens;
        let origin = select(inside, token, 0) * width;
        let mut square_a = Vector::<f32, N>::new(0.0f32);
        let mut square_b = Vector::<f32, N>::new(0.0f32);
        let mut at = lane;
        for _ in 0..strides {
            load(a, &mut held_a, origin, at, lanes, width);
            load(b, &mut held_b, origin, at, lanes, width);
            #[unroll]
            for i in 0..AT_ONCE {
                if at + i * lanes < width {
                    let x = Vector::<f32, N>::cast_from(held_a[i as usize]);
                    let y = Vector::<f32, N>::cast_from(held_b[i as usize]);
                    square_a += x * x;
                    square_b += y * y;
                }
            }
            at += comptime!(AT_ONCE * lanes);
        }
        let of_a = sum_of_run(sum_of_elements(square_a), &mut scratch, lanes, plane).sqrt();
        let of_b = sum_of_run(sum_of_elements(square_b), &mut scratch, lanes, plane).sqrt();
        // NaN stays, told by its bits: a driver may make a maximum of a comparison with a choice, and that loses it.
        let is_number = (u32::reinterpret(of_b) & 0x7fff_ffffu32) <= 0x7f80_0000u32;
        let ratio = select(is_number, of_a / select(of_b < smallest, smallest, of_b), of_b);
        total += select(inside && lane == 0, ratio, 0.0f32);
        token += CUBE_COUNT_X * in_cube;
    }
    let total = sum_of_run(total, &mut scratch, THREADS, plane);
    if UNIT_POS == 0 {
        out[(first + CUBE_POS_X) as usize] = total;
    }
}
