//! Numbers to codes: a row of channels at a time, or a group of tokens.

use rayon::prelude::*;
use tether_codec::{Bits, CodeProblem, Grouping, HostCodes, MIN_SCALE_RANGE};
use tether_core::{CoreError, HostTensor};

/// Numbers, and where their codes, scales and zeros go.
type Group<'a> = (&'a [f32], (&'a mut [u8], (&'a mut [f32], &'a mut [f32])));

/// Codes of `x`, which is finite.
pub(super) fn codes(x: &HostTensor, problem: &CodeProblem, parallel: bool) -> Result<HostCodes, CoreError> {
    let grouping = problem.format.grouping;
    let scales: usize = problem.scale_shape().iter().product();
    let zeros = if grouping == Grouping::Token { 0 } else { scales };
    let mut codes = HostCodes {
        shape: x.shape().into(),
        format: problem.format,
        codes: vec![0; problem.code_bytes()],
        scales: vec![0.0; scales],
        zeros: vec![0.0; zeros],
    };
    let (tokens, channels) = match grouping {
        Grouping::Token => (1, problem.head_dim),
        Grouping::Channel(size) => (size.min(problem.tokens), problem.heads * problem.head_dim),
    };
    if x.is_empty() {
        return Ok(codes);
    }
    let wide = x.data().widened(0..x.len());
    let len = tokens * channels;
    let bytes = problem.format.bits.bytes(len);
    let of_token =
        |(x, (codes, scale)): (&[f32], (&mut [u8], &mut f32))| token(x, problem.format.bits, codes, scale);
    let of_group = |(x, (codes, (scales, zeros))): Group<'_>| {
        group(x, problem, codes, scales, zeros);
    };
    let HostCodes { codes: packed, scales, zeros, .. } = &mut codes;
    match (grouping, parallel) {
        (Grouping::Token, false) => {
            wide.chunks(len).zip(packed.chunks_mut(bytes).zip(scales)).for_each(of_token);
        }
        (Grouping::Token, true) => {
            wide.par_chunks(len).zip(packed.par_chunks_mut(bytes).zip(scales)).for_each(of_token);
        }
        (Grouping::Channel(_), false) => {
            let parameters = scales.chunks_mut(channels).zip(zeros.chunks_mut(channels));
            wide.chunks(len).zip(packed.chunks_mut(bytes).zip(parameters)).for_each(of_group);
        }
        (Grouping::Channel(_), true) => {
            let parameters = scales.par_chunks_mut(channels).zip(zeros.par_chunks_mut(channels));
            wide.par_chunks(len).zip(packed.par_chunks_mut(bytes).zip(parameters)).for_each(of_group);
        }
    }
    if let Some(scale) = codes.scales.iter().position(|s| !s.is_finite()) {
        // Numbers near both ends of the range: their distance does not fit.
        let index = scale / channels * len + scale % channels;
        return Err(CoreError::NonFinite { what: "range of a group of x", index });
    }
    Ok(codes)
}

/// A token's head.
fn token(x: &[f32], bits: Bits, codes: &mut [u8], scale: &mut f32) {
    let largest = bits.signed_max() as f32;
    *scale = x.iter().fold(MIN_SCALE_RANGE, |m, x| m.max(x.abs())) / largest;
    let signed = |x: f32| (x / *scale).round().clamp(-largest, largest) as i8;
    match bits {
        Bits::Four => pack(x, |x| (signed(x) + 8).cast_unsigned(), codes),
        Bits::Eight => codes.iter_mut().zip(x).for_each(|(code, &x)| *code = signed(x).cast_unsigned()),
    }
}

/// Tokens that share a scale per channel.
fn group(x: &[f32], problem: &CodeProblem, codes: &mut [u8], scales: &mut [f32], zeros: &mut [f32]) {
    let (bits, dim) = (problem.format.bits, problem.head_dim);
    let levels = bits.levels() as f32;
    let channels = scales.len();
    let mut high = x[..channels].to_vec();
    zeros.copy_from_slice(&high);
    for token in x.chunks_exact(channels) {
        zeros.iter_mut().zip(token).for_each(|(m, &x)| *m = m.min(x));
        high.iter_mut().zip(token).for_each(|(m, &x)| *m = m.max(x));
    }
    for (scale, (low, high)) in scales.iter_mut().zip(zeros.iter().zip(high)) {
        *scale = (high - low).max(MIN_SCALE_RANGE) / levels;
    }
    let mut steps = vec![0f32; channels];
    for (token, codes) in x.chunks_exact(channels).zip(codes.chunks_exact_mut(bits.bytes(channels))) {
        for ((step, x), (scale, zero)) in steps.iter_mut().zip(token).zip(scales.iter().zip(&*zeros)) {
            *step = ((x - zero) / scale).round().clamp(0.0, levels);
        }
        match bits {
            Bits::Four => {
                let heads = steps.chunks_exact(dim).zip(codes.chunks_exact_mut(bits.bytes(dim)));
                heads.for_each(|(head, codes)| pack(head, |x| x as u8, codes));
            }
            Bits::Eight => codes.iter_mut().zip(&steps).for_each(|(code, &x)| *code = x as u8),
        }
    }
}

/// Two 4-bit codes a byte: the first half of the channels in the low halves.
fn pack(head: &[f32], code: impl Fn(f32) -> u8, into: &mut [u8]) {
    let (low, high) = head.split_at(head.len() / 2);
    into.iter_mut().zip(low.iter().zip(high)).for_each(|(byte, (&a, &b))| *byte = code(a) | code(b) << 4);
}
