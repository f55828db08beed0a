//! Weight matrices, in the blocks that their file has.
//!
//! A product with one token reads every weight once, so its time is the weights' bytes: it works on the blocks as they are. A product
//! with many tokens widens a strip of outputs at a time and multiplies it by all tokens while it is in the cache.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use tether_dense::{MatRef, matmul};

/// Weights of a block.
pub(super) const BLOCK: usize = 32;
/// Up to this many tokens are multiplied one by one.
const FEW: usize = 6;
/// Outputs of a task of a product with one token.
const ROWS: usize = 32;
/// Outputs that are widened at a time.
const STRIP: usize = 512;
/// Tokens of a task of a product with many. Fixed, as the other sizes are, so that no result depends on the number of threads.
const TOKENS: usize = 128;
const LANES: usize = 16;

/// `y = x W^T`, `W` row-major `[outputs, inputs]`.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    outputs: usize,
    inputs: usize,
    weights: Weights,
}

/// Rows of whole blocks, or of plain numbers.
#[derive(Clone, Debug)]
pub(super) enum Weights {
    F32(Vec<f32>),
    /// `code * scale + least`; byte `i` of a block has the codes of its weights `i` (low half) and `i + 16`.
    Q4_1 {
        scales: Vec<f32>,
        least: Vec<f32>,
        codes: Vec<[u8; 16]>,
    },
    /// `code * scale`.
    Q8_0 {
        scales: Vec<f32>,
        codes: Vec<[i8; BLOCK]>,
    },
}

impl Matrix {
    /// A matrix from its weights, lengths already checked.
    pub(super) fn new(outputs: usize, inputs: usize, weights: Weights) -> Self {
        Self { outputs, inputs, weights }
    }

    /// Several matrices with the same input as one with their outputs side by side.
    pub(super) fn stacked(parts: &[&Self]) -> Self {
        let inputs = parts.first().map_or(0, |m| m.inputs);
        let outputs = parts.iter().map(|m| m.outputs).sum();
        let mut stacked = match parts.first().map(|m| &m.weights) {
            Some(Weights::Q4_1 { .. }) => {
                Weights::Q4_1 { scales: Vec::new(), least: Vec::new(), codes: Vec::new() }
            }
            Some(Weights::Q8_0 { .. }) => Weights::Q8_0 { scales: Vec::new(), codes: Vec::new() },
            _ => Weights::F32(Vec::new()),
        };
        for part in parts {
            match (&mut stacked, &part.weights) {
                (Weights::Q4_1 { scales, least, codes }, Weights::Q4_1 { scales: s, least: l, codes: c }) => {
                    scales.extend(s);
                    least.extend(l);
                    codes.extend(c);
                }
                (Weights::Q8_0 { scales, codes }, Weights::Q8_0 { scales: s, codes: c }) => {
                    scales.extend(s);
                    codes.extend(c);
                }
                (Weights::F32(all), Weights::F32(x)) => all.extend(x),
                // Files may store the parts in different types; only plain numbers can hold them all.
                _ => {
                    let widened = parts.iter().flat_map(|m| (0..m.outputs).flat_map(|o| m.row(o)));
                    return Self { outputs, inputs, weights: Weights::F32(widened.collect()) };
                }
            }
        }
        Self { outputs, inputs, weights: stacked }
    }

    /// The matrix whose row `i` is row `from(i)` of this one.
    pub(super) fn reordered(&self, from: impl Fn(usize) -> usize) -> Self {
        fn rows<T: Clone>(all: &[T], outputs: usize, from: &impl Fn(usize) -> usize) -> Vec<T> {
            let width = all.len() / outputs.max(1);
            (0..outputs).flat_map(|i| all[from(i) * width..(from(i) + 1) * width].iter().cloned()).collect()
        }
        let n = self.outputs;
        let weights = match &self.weights {
            Weights::F32(x) => Weights::F32(rows(x, n, &from)),
            Weights::Q4_1 { scales, least, codes } => Weights::Q4_1 {
                scales: rows(scales, n, &from),
                least: rows(least, n, &from),
                codes: rows(codes, n, &from),
            },
            Weights::Q8_0 { scales, codes } => {
                Weights::Q8_0 { scales: rows(scales, n, &from), codes: rows(codes, n, &from) }
            }
        };
        Self { weights, ..*self }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::F32(x) => size_of_val(&x[..]),
            Weights::Q4_1 { scales, least, codes } => {
                size_of_val(&scales[..]) + size_of_val(&least[..]) + size_of_val(&codes[..])
            }
            Weights::Q8_0 { scales, codes } => size_of_val(&scales[..]) + size_of_val(&codes[..]),
        }
    }

    /// Row `output`, widened.
    pub(super) fn row(&self, output: usize) -> Vec<f32> {
        let mut row = vec![0.0; self.inputs];
        match &self.weights {
            Weights::F32(x) => row.copy_from_slice(&x[output * self.inputs..][..self.inputs]),
            _ => {
                let first = output * (self.inputs / BLOCK);
                let blocks = row.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate();
                blocks.for_each(|(i, into)| self.widen(first + i, into));
            }
        }
        row
    }

    /// `y = x W^T` for every row of `x`; `strip` is working memory.
    pub(super) fn apply(&self, arch: Arch, x: &[f32], y: &mut [f32], strip: &mut Vec<f32>) {
        if x.len() <= FEW * self.inputs {
            for (x, y) in x.chunks_exact(self.inputs).zip(y.chunks_exact_mut(self.outputs)) {
                self.apply_to_one(arch, x, y);
            }
        } else {
            self.apply_to_many(arch, x, y, strip);
        }
    }

    fn apply_to_one(&self, arch: Arch, x: &[f32], y: &mut [f32]) {
        let sums: Vec<f32> = match &self.weights {
            Weights::Q4_1 { .. } => x.as_chunks::<BLOCK>().0.iter().map(|b| b.iter().sum()).collect(),
            _ => Vec::new(),
        };
        y.par_chunks_mut(ROWS).enumerate().for_each(|(task, y)| {
            arch.dispatch(Dots { matrix: self, first: task * ROWS, x, sums: &sums, y });
        });
    }

    fn apply_to_many(&self, arch: Arch, x: &[f32], y: &mut [f32], strip: &mut Vec<f32>) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        strip.resize(inputs * STRIP.min(outputs), 0.0);
        for first in (0..outputs).step_by(STRIP) {
            let count = STRIP.min(outputs - first);
            // Transposed, [inputs, count]: the product then reads it without repacking.
            let strip = &mut strip[..inputs * count];
            strip.par_chunks_mut(BLOCK * count).enumerate().for_each(|(column, into)| {
                arch.dispatch(WidenColumn { matrix: self, first, column, count, into });
            });
            let strip = MatRef::row_major(strip, inputs, count, count);
            y.par_chunks_mut(TOKENS * outputs).zip(x.par_chunks(TOKENS * inputs)).for_each(|(y, x)| {
                let x = MatRef::row_major(x, x.len() / inputs, inputs, inputs);
                matmul(&mut y[first..], outputs, 0.0, x, strip);
            });
        }
    }

    /// The weights of block `block`.
    #[inline(always)]
    fn widen(&self, block: usize, into: &mut [f32; BLOCK]) {
        match &self.weights {
            Weights::F32(x) => into.copy_from_slice(&x[block * BLOCK..][..BLOCK]),
            Weights::Q4_1 { scales, least, codes } => {
                let (scale, least, codes) = (scales[block], least[block], &codes[block]);
                for i in 0..BLOCK / 2 {
                    into[i] = f32::from(codes[i] & 15).mul_add(scale, least);
                    into[i + BLOCK / 2] = f32::from(codes[i] >> 4).mul_add(scale, least);
                }
            }
            Weights::Q8_0 { scales, codes } => {
                let scale = scales[block];
                into.iter_mut().zip(&codes[block]).for_each(|(x, c)| *x = f32::from(*c) * scale);
            }
        }
    }
}

/// Products of one token with the rows from `first` on.
struct Dots<'a> {
    matrix: &'a Matrix,
    first: usize,
    x: &'a [f32],
    /// Sum of each block of `x`, where blocks have a least value.
    sums: &'a [f32],
    y: &'a mut [f32],
}

// Types with an inlined method and not closures, whose calls are not always inlined into the function that has the vector instructions.
impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { matrix, first, x, sums, y } = self;
        let x_blocks = x.as_chunks::<BLOCK>().0;
        let blocks = x_blocks.len();
        match &matrix.weights {
            Weights::F32(weights) => {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = dot(&weights[(first + i) * x.len()..][..x.len()], x);
                }
            }
            Weights::Q4_1 { scales, least, codes } => {
                for (i, y) in y.iter_mut().enumerate() {
                    let row = (first + i) * blocks..(first + i + 1) * blocks;
                    let mut lanes = [0f32; LANES];
                    for ((codes, scale), x) in
                        codes[row.clone()].iter().zip(&scales[row.clone()]).zip(x_blocks)
                    {
                        let (low, high) = x.split_at(LANES);
                        for j in 0..LANES {
                            let dot = f32::from(codes[j] & 15) * low[j];
                            let dot = f32::from(codes[j] >> 4).mul_add(high[j], dot);
                            lanes[j] = dot.mul_add(*scale, lanes[j]);
                        }
                    }
                    *y = lanes.iter().sum::<f32>() + dot(&least[row], sums);
                }
            }
            Weights::Q8_0 { scales, codes } => {
                for (i, y) in y.iter_mut().enumerate() {
                    let row = (first + i) * blocks..(first + i + 1) * blocks;
                    let mut lanes = [0f32; LANES];
                    for ((codes, scale), x) in codes[row.clone()].iter().zip(&scales[row]).zip(x_blocks) {
                        for j in 0..LANES {
                            let dot = f32::from(codes[j]) * x[j];
                            let dot = f32::from(codes[j + LANES]).mul_add(x[j + LANES], dot);
                            lanes[j] = dot.mul_add(*scale, lanes[j]);
                        }
                    }
                    *y = lanes.iter().sum();
                }
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 2 * LANES];
    let (a_wide, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b_wide, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    for (a, b) in a_wide.iter().zip(b_wide) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// One block of inputs of the outputs `first..first + count`, transposed: `[BLOCK, count]`, fewer rows where the inputs end.
struct WidenColumn<'a> {
    matrix: &'a Matrix,
    first: usize,
    column: usize,
    count: usize,
    into: &'a mut [f32],
}

impl WithSimd for WidenColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { matrix, first, column, count, into } = self;
        let inputs = matrix.inputs;
        if let Weights::F32(weights) = &matrix.weights {
            for (i, row) in into.chunks_exact_mut(count).enumerate() {
                let from = weights[first * inputs + column * BLOCK + i..].iter().step_by(inputs);
                row.iter_mut().zip(from).for_each(|(x, w)| *x = *w);
            }
            return;
        }
        let blocks = inputs / BLOCK;
        let mut tile = [[0f32; BLOCK]; LANES];
        for start in (0..count).step_by(LANES) {
            let outputs = LANES.min(count - start);
            for (i, row) in tile.iter_mut().take(outputs).enumerate() {
                matrix.widen((first + start + i) * blocks + column, row);
            }
            for (i, row) in into.chunks_exact_mut(count).enumerate() {
                let row = &mut row[start..start + outputs];
                row.iter_mut().zip(&tile).for_each(|(x, tile)| *x = tile[i]);
            }
        }
    }
}
