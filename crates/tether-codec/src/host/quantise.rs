//! Numbers to codes.

use tether_core::{CoreError, HostTensor};

use crate::{Bits, CodeProblem, Grouping, HostCodes, MIN_SCALE_RANGE};

/// Codes of `x`, which is finite.
pub(super) fn codes(x: &HostTensor, problem: CodeProblem) -> Result<HostCodes, CoreError> {
    let x_wide = x.data().widened(0..x.len());
    let mut codes = HostCodes {
        shape: x.shape().into(),
        format: problem.format,
        codes: Vec::with_capacity(problem.code_bytes()),
        scales: Vec::new(),
        zeros: Vec::new(),
    };
    if problem.head_dim == 0 {
        codes.scales = vec![0.0; problem.scale_shape().iter().product()];
        return Ok(codes);
    }
    match problem.format.grouping {
        Grouping::Token => per_token(&x_wide, &problem, &mut codes),
        Grouping::Channel(size) => per_channel(&x_wide, &problem, size, &mut codes)?,
    }
    Ok(codes)
}

fn per_token(x: &[f32], problem: &CodeProblem, codes: &mut HostCodes) {
    let bits = problem.format.bits;
    let largest = bits.signed_max() as f32;
    for head in x.chunks_exact(problem.head_dim) {
        let range = head.iter().fold(MIN_SCALE_RANGE, |m, x| m.max(x.abs()));
        let scale = range / largest;
        let signed = |x: f32| (x / scale).round().clamp(-largest, largest) as i8;
        match bits {
            Bits::Four => pack(head, |x| (signed(x) + 8).cast_unsigned(), &mut codes.codes),
            Bits::Eight => codes.codes.extend(head.iter().map(|&x| signed(x).cast_unsigned())),
        }
        codes.scales.push(scale);
    }
}

fn per_channel(
    x: &[f32],
    problem: &CodeProblem,
    size: usize,
    codes: &mut HostCodes,
) -> Result<(), CoreError> {
    let channels = problem.heads * problem.head_dim;
    if channels == 0 {
        return Ok(());
    }
    let bits = problem.format.bits;
    let levels = bits.levels() as f32;
    for (group, tokens) in x.chunks(size.saturating_mul(channels)).enumerate() {
        let (mut low, mut high) = (tokens[..channels].to_vec(), tokens[..channels].to_vec());
        for token in tokens.chunks_exact(channels) {
            low.iter_mut().zip(token).for_each(|(m, &x)| *m = m.min(x));
            high.iter_mut().zip(token).for_each(|(m, &x)| *m = m.max(x));
        }
        let scales: Vec<f32> =
            low.iter().zip(&high).map(|(low, high)| (high - low).max(MIN_SCALE_RANGE) / levels).collect();
        if let Some(channel) = scales.iter().position(|s| !s.is_finite()) {
            // Numbers near both ends of the range: their distance does not fit.
            let index = group * size * channels + channel;
            return Err(CoreError::NonFinite { what: "range of a group of x", index });
        }
        for token in tokens.chunks_exact(channels) {
            let levelled: Vec<f32> = token
                .iter()
                .zip(low.iter().zip(&scales))
                .map(|(x, (zero, scale))| ((x - zero) / scale).round().clamp(0.0, levels))
                .collect();
            for head in levelled.chunks_exact(problem.head_dim) {
                match bits {
                    Bits::Four => pack(head, |x| x as u8, &mut codes.codes),
                    Bits::Eight => codes.codes.extend(head.iter().map(|&x| x as u8)),
                }
            }
        }
        codes.scales.extend(scales);
        codes.zeros.extend(low);
    }
    Ok(())
}

/// Two 4-bit codes a byte: the first half of the channels in the low halves.
fn pack(head: &[f32], code: impl Fn(f32) -> u8, into: &mut Vec<u8>) {
    let (low, high) = head.split_at(head.len() / 2);
    into.extend(low.iter().zip(high).map(|(&a, &b)| code(a) | code(b) << 4));
}
