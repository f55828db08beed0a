//! Codes to numbers.

use tether_codec::{Bits, CodeProblem, Grouping, HostCodes};

/// Row `row` (a token's head) of what was quantised. The codes fit the problem.
pub(super) fn row(codes: &HostCodes, problem: &CodeProblem, row: usize, into: &mut [f32]) {
    let (bits, dim) = (problem.format.bits, problem.head_dim);
    let bytes = &codes.codes[row * bits.bytes(dim)..][..bits.bytes(dim)];
    match bits {
        Bits::Four => {
            let (low, high) = into.split_at_mut(dim / 2);
            for ((a, b), byte) in low.iter_mut().zip(high).zip(bytes) {
                (*a, *b) = (f32::from(byte & 15), f32::from(byte >> 4));
            }
        }
        Bits::Eight => into.iter_mut().zip(bytes).for_each(|(x, &byte)| *x = f32::from(byte)),
    }
    match problem.format.grouping {
        Grouping::Token => {
            let scale = codes.scales[row];
            let signed = |code: f32| match bits {
                Bits::Four => code - 8.0,
                // Two's complement.
                Bits::Eight => code - if code >= 128.0 { 256.0 } else { 0.0 },
            };
            into.iter_mut().for_each(|x| *x = signed(*x) * scale);
        }
        Grouping::Channel(size) => {
            let (token, head) = (row / problem.heads, row % problem.heads);
            let start = (token / size * problem.heads + head) * dim;
            let (scales, zeros) = (&codes.scales[start..][..dim], &codes.zeros[start..][..dim]);
            into.iter_mut()
                .zip(scales.iter().zip(zeros))
                .for_each(|(x, (scale, zero))| *x = *x * scale + zero);
        }
    }
}
