//! Spherical codes to numbers.

use cubecl::prelude::*;

use super::rotation::{exchanged, transform};
use super::{CHANNELS, THREADS, level_offset};

/// The numbers that rows of codes stand for; arguments as those of [`super::encode_spherical`].
#[cube(launch_unchecked)]
pub(crate) fn restore_spherical<F: Float, S: Float, N: Size, M: Size>(
    codes: &Array<u32>,
    radii: &Array<S>,
    means: &Array<Vector<f32, M>>,
    channels: &Array<Vector<f32, M>>,
    levels: &Array<f32>,
    out: &mut Array<Vector<F, N>>,
    tokens: u32,
    heads: u32,
    #[comptime] dim: u32,
    #[comptime] bits: u32,
    #[comptime] lanes: u32,
    #[comptime] plane: u32,
) {
    let vector = N::value();
    let mut table = SharedMemory::<f32>::new(comptime!(1usize << bits));
    if UNIT_POS_X < comptime!(1u32 << bits) {
        table[UNIT_POS_X as usize] = levels[(UNIT_POS_X + comptime!(level_offset(bits))) as usize];
    }
    sync_cube();
    let lane = UNIT_POS_X % lanes;
    let cube = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    let head = cube % heads;
    let token = cube / heads * comptime!(THREADS / lanes) + UNIT_POS_X / lanes;
    let row = token * heads + head;
    let there = token < tokens;
    let first = lane * CHANNELS;
    let row_words = comptime!((dim * bits).div_ceil(32));
    let mut words = Array::<u32>::new(comptime!(bits as usize));
    #[unroll]
    for i in 0..comptime!(bits as usize) {
        words[i] = 0u32.runtime();
        let word = lane * bits + comptime!(i as u32);
        if there && word < row_words {
            words[i] = codes[(row * row_words + word) as usize];
        }
    }
    let mut y = Array::<f32>::new(CHANNELS as usize);
    #[unroll]
    for i in 0..CHANNELS as usize {
        let bit = comptime!(i as u32 * bits);
        let word = comptime!((bit / 32) as usize);
        let mut code = words[word] >> comptime!(bit % 32);
        if comptime!(bit % 32 + bits > 32) {
            code |= words[comptime!(word + 1)] << comptime!(32 - bit % 32);
        }
        y[i] = table[(code & comptime!((1u32 << bits) - 1)) as usize];
        if comptime!(dim != lanes * CHANNELS) {
            y[i] = select(first + comptime!(i as u32) < dim, y[i], 0.0f32);
        }
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(exchanged(lanes, plane)));
    transform(&mut y, &mut shared, lane, dim, lanes, plane);
    if there {
        let radius = f32::cast_from(radii[row as usize]);
        let width = M::value();
        #[unroll]
        for load in 0..comptime!(CHANNELS as usize / width) {
            let at = first + comptime!((load * width) as u32);
            if at < dim {
                let sign = channels[(at / comptime!(width as u32)) as usize];
                let scale = channels[((dim + at) / comptime!(width as u32)) as usize];
                let mean = means[((head * dim + at) / comptime!(width as u32)) as usize];
                #[unroll]
                for i in 0..M::value() {
                    let channel = comptime!(load * width) + i;
                    y[channel] = y[channel] * radius * (sign[i] * scale[i]) + mean[i];
                }
            }
        }
        #[unroll]
        for store in 0..comptime!(CHANNELS as usize / vector) {
            let at = first + comptime!((store * vector) as u32);
            if at < dim {
                let mut packed = Vector::<F, N>::empty();
                #[unroll]
                for i in 0..N::value() {
                    packed[i] = F::cast_from(y[comptime!(store * vector) + i]);
                }
                out[((row * dim + at) / comptime!(vector as u32)) as usize] = packed;
            }
        }
    }
}
