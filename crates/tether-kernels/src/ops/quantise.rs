//! Codes and back.

use cubecl::prelude::*;
use tether_codec::{Bits, Grouping, MIN_SCALE_RANGE};
use tether_core::CoreError;

use crate::cube::launch::{array, flat, planes, vector_size, with_storage};
use crate::kernels::quantise;
use crate::{CubeCodes, CubeTensor};

fn bits(codes: &CubeCodes) -> u32 {
    match codes.problem.format.bits {
        Bits::Four => 4,
        Bits::Eight => 8,
    }
}

pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    x: &CubeTensor,
    codes: &CubeCodes,
) -> Result<(), CoreError> {
    let problem = &codes.problem;
    let (head_dim, bytes) = (problem.head_dim, x.dtype.bytes());
    match problem.format.grouping {
        Grouping::Token => {
            // Words of codes are written whole, so a thread has at least four channels of each half.
            let vector = vector_size(client, bytes, &[head_dim / 2]).max(4);
            if !(head_dim / 2).is_multiple_of(vector) {
                return Err(CoreError::Geometry {
                    field: "head_dim",
                    value: head_dim,
                    requirement: "must be a multiple of 8 to be quantised on a device",
                });
            }
            let lanes = head_dim / 2 / vector;
            if lanes > quantise::THREADS as usize {
                return Err(CoreError::Geometry {
                    field: "head_dim",
                    value: head_dim,
                    requirement: "is too large to be quantised by one cube",
                });
            }
            let rows = problem.tokens * problem.heads;
            let cubes = rows.div_ceil(quantise::THREADS as usize / lanes);
            let (count, _) = flat(cubes * quantise::THREADS as usize);
            let by_plane =
                lanes.is_power_of_two() && planes(client).is_some_and(|plane| plane as usize >= lanes);
            with_storage!(x.dtype, F => {
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel stops at `rows` rows of `head_dim` channels, which `x`, the codes and the scales hold.
                unsafe {
                    quantise::quantise_tokens::launch_unchecked::<F, R>(
                        client, count, CubeDim::new_1d(quantise::THREADS), vector,
                        array(&x.handle, x.len() / vector), array(&codes.codes, codes.words()),
                        array(&codes.scales, codes.scale_len()), rows as u32, lanes as u32, MIN_SCALE_RANGE,
                        bits(codes), if by_plane { lanes as u32 } else { 0 },
                    );
                }
            });
        }
        Grouping::Channel(size) => {
            let vector = vector_size(client, bytes, &[4, head_dim]);
            let words = problem.format.bits.bytes(head_dim) / 4;
            let groups = problem.tokens.div_ceil(size);
            let cubes = groups * words.div_ceil(quantise::CHANNEL_WORDS as usize);
            let x_cubes = cubes.min(32_768);
            if cubes.div_ceil(x_cubes.max(1)) > 65_535 || problem.heads > 65_535 {
                let factors = [groups, problem.heads].into();
                return Err(CoreError::SizeOverflow { what: "groups of a launch", factors });
            }
            let count = CubeCount::Static(
                x_cubes as u32,
                cubes.div_ceil(x_cubes.max(1)) as u32,
                problem.heads as u32,
            );
            with_storage!(x.dtype, F => {
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel stops at `tokens` tokens and `words` words of a head, which `x`, the codes, scales and zeros hold.
                unsafe {
                    quantise::quantise_channels::launch_unchecked::<F, R>(
                        client, count, CubeDim::new_2d(quantise::CHANNEL_WORDS, quantise::TOKEN_LANES), vector,
                        array(&x.handle, x.len() / vector), array(&codes.codes, codes.words()),
                        array(&codes.scales, codes.scale_len()), array(&codes.zeros, codes.zero_len()),
                        problem.tokens as u32, problem.heads as u32, head_dim as u32, size as u32, MIN_SCALE_RANGE,
                        bits(codes),
                    );
                }
            });
        }
    }
    Ok(())
}

pub(crate) fn launch_inverse<R: Runtime>(client: &ComputeClient<R>, codes: &CubeCodes, out: &CubeTensor) {
    let problem = &codes.problem;
    let vector = vector_size(client, out.dtype.bytes(), &[4, problem.head_dim]);
    let size = match problem.format.grouping {
        Grouping::Token => 1,
        Grouping::Channel(size) => size,
    };
    let (count, dim) = flat(codes.words());
    with_storage!(out.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `rows` rows of codes; scales and zeros have an entry for each row or group.
        unsafe {
            quantise::dequantise::launch_unchecked::<F, R>(
                client, count, dim, vector,
                array(&codes.codes, codes.words()), array(&codes.scales, codes.scale_len()),
                array(&codes.zeros, codes.zero_len().max(1)), array(&out.handle, out.len() / vector),
                (problem.tokens * problem.heads) as u32, problem.heads as u32, problem.head_dim as u32, size as u32,
                bits(codes), problem.format.grouping == Grouping::Token,
            );
        }
    });
}
