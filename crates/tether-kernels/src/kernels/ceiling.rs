//! What benchmarks compare with: a copy, a read, matrix products out of registers, an empty launch; and noise to work on.

use cubecl::cmma::MmaDefinition;
use cubecl::prelude::*;

/// A pseudo-random word of `x`.
#[cube]
fn hash(x: u32) -> u32 {
    let mut h = x;
    h = (h ^ (h >> 16u32)) * 0x7feb_352du32;
    h = (h ^ (h >> 15u32)) * 0x846c_a68bu32;
    h ^ (h >> 16u32)
}

/// Uniform noise of mean 0 and variance 1, one vector a thread.
#[cube(launch_unchecked)]
pub(crate) fn noise<F: Float, N: Size>(out: &mut Array<Vector<F, N>>, len: u32, seed: u32) {
    if (ABSOLUTE_POS as u32) < len {
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for i in 0..N::value() {
            let word = hash(hash(ABSOLUTE_POS as u32 + seed * 0x9e37_79b9u32) + i as u32);
            let unit = f32::cast_from(word >> 8u32) * f32::new(1.0 / 16_777_216.0) - f32::new(0.5);
            values[i] = F::cast_from(unit * f32::new(3.464_101_6));
        }
        out[ABSOLUTE_POS] = values;
    }
}

/// A plain copy, one vector a thread.
#[cube(launch_unchecked)]
pub(crate) fn copy_words<N: Size>(from: &Array<Vector<u32, N>>, to: &mut Array<Vector<u32, N>>, len: u32) {
    if (ABSOLUTE_POS as u32) < len {
        to[ABSOLUTE_POS] = from[ABSOLUTE_POS];
    }
}

/// Reads everything, writes a word a thread. A cube reads `per_thread` stretches in a row.
#[cube(launch_unchecked)]
pub(crate) fn read_words<N: Size>(
    from: &Array<Vector<u32, N>>,
    to: &mut Array<u32>,
    len: u32,
    #[comptime] per_thread: u32,
) {
    let cube = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let first = cube * CUBE_DIM_X * per_thread + UNIT_POS_X;
    let mut sum = 0u32;
    #[unroll]
    for i in 0..per_thread {
        let at = first + i * CUBE_DIM_X;
        let words = from[select(at < len, at, 0u32) as usize];
        #[unroll]
        for n in 0..N::value() {
            sum ^= words[n];
        }
    }
    to[(cube * CUBE_DIM_X + UNIT_POS_X) as usize] = sum;
}

/// Products of 16 x 8 x 16 out of registers, eight independent chains a warp.
#[cube(launch_unchecked)]
pub(crate) fn multiply_registers<F: Float>(out: &mut Array<f32>, rounds: u32) {
    let def = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let size!(N2) = 2usize;
    let x = f32::cast_from(UNIT_POS_X) * f32::new(0.01);
    let mut a = Array::<Vector<F, N2>>::new(4usize);
    let mut b = Array::<Vector<F, N2>>::new(2usize);
    #[unroll]
    for i in 0..4usize {
        a[i] = Vector::new(F::cast_from(x));
    }
    #[unroll]
    for i in 0..2usize {
        b[i] = Vector::new(F::cast_from(f32::new(0.5) - x));
    }
    let mut sums = Sequence::<Array<Vector<f32, N2>>>::new();
    #[unroll]
    for _ in 0..8usize {
        let mut c = Array::<Vector<f32, N2>>::new(2usize);
        c[0] = Vector::new(0.0f32);
        c[1] = Vector::new(0.0f32);
        sums.push(c);
    }
    for _ in 0..rounds {
        #[unroll]
        for i in 0..8usize {
            def.execute_inplace(&a, &b, sums.index_mut(i));
        }
    }
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..8usize {
        sum += sums.index(i)[0][0] + sums.index(i)[1][1];
    }
    out[ABSOLUTE_POS] = sum;
}

/// Nothing.
#[cube(launch_unchecked)]
pub(crate) fn empty(out: &mut Array<u32>) {
    if ABSOLUTE_POS == 0 {
        out[0] = 1u32;
    }
}
