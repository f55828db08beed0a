//! Spherical codes and back.

use cubecl::prelude::*;
use tether_codec::RadiusFit;
use tether_core::CoreError;

use crate::cube::launch::{array, planes, spread, vector_size, with_storage};
use crate::cube::spherical::LEVELS;
use crate::kernels::spherical::{self, CHANNELS, THREADS};
use crate::{CubeFrame, CubeIndices, CubeSpherical, CubeTensor};

/// Numbers of a frame that are read at once: rows are a multiple of 8.
const FRAME_VECTOR: usize = 4;

/// How rows are dealt to threads.
struct Blueprint {
    /// Threads of a row.
    lanes: u32,
    /// Threads of a plane, where a row's exchange by shuffles; else 0.
    plane: u32,
    count: CubeCount,
}

impl Blueprint {
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        engine: &'static str,
        (tokens, heads, head_dim): (usize, usize, usize),
    ) -> Result<Self, CoreError> {
        let lanes = head_dim.div_ceil(CHANNELS as usize).next_power_of_two() as u32;
        if lanes > THREADS {
            return Err(CoreError::Unsupported {
                engine,
                feature: "spherical codes of more than 4096 channels",
            });
        }
        let (x, y) = spread(tokens.div_ceil((THREADS / lanes) as usize) * heads);
        if y > 65_535 {
            return Err(CoreError::SizeOverflow {
                what: "rows of a launch",
                factors: [tokens, heads].into(),
            });
        }
        let plane = planes(client).filter(|&plane| plane >= lanes).unwrap_or(0);
        Ok(Self { lanes, plane, count: CubeCount::Static(x, y, 1) })
    }
}

/// Codes the rows of `x`, to rows `places` of `codes` where these are given.
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    x: &CubeTensor,
    frame: &CubeFrame,
    codes: &CubeSpherical,
    places: Option<&CubeIndices>,
) -> Result<(), CoreError> {
    let dim = frame.head_dim;
    let tokens = x.len() / (frame.heads * dim);
    let Blueprint { lanes, plane, count } = Blueprint::new(client, engine, (tokens, frame.heads, dim))?;
    let vector = vector_size(client, x.dtype.bytes(), &[8, dim]);
    let (bits, row_words) = (codes.bits(), codes.row_words());
    let words = vector_size(client, 4, &[bits as usize, row_words]);
    let unbiased = codes.problem.format.fit == RadiusFit::Unbiased;
    let table = places.map_or((&frame.levels, LEVELS), |p| (p.handle(), p.len()));
    with_storage!(x.dtype, F => with_storage!(codes.radius, S => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `tokens` tokens, which `x` holds, and at a row's words; places lie in the codes (checked by their bound) and without any the
        // codes have as many rows as `x`.
        unsafe {
            spherical::encode_spherical::launch_unchecked::<F, S, R>(
                client, count, CubeDim::new_1d(THREADS), vector, FRAME_VECTOR, words,
                array(&x.handle, x.len() / vector), array(&frame.means, frame.heads * dim / FRAME_VECTOR),
                array(&frame.channels, 2 * dim / FRAME_VECTOR), array(&frame.levels, LEVELS), array(table.0, table.1),
                array(&codes.codes, codes.words() / words), array(&codes.radii, codes.problem.rows()),
                tokens as u32, frame.heads as u32, dim as u32, bits, lanes, unbiased, places.is_some(), plane,
            );
        }
    }));
    Ok(())
}

/// The numbers that `codes` stand for.
pub(crate) fn launch_inverse<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    codes: &CubeSpherical,
    frame: &CubeFrame,
    out: &CubeTensor,
) -> Result<(), CoreError> {
    let dim = frame.head_dim;
    let (tokens, rows) = (codes.problem.tokens, codes.problem.rows());
    let Blueprint { lanes, plane, count } = Blueprint::new(client, engine, (tokens, frame.heads, dim))?;
    let vector = vector_size(client, out.dtype.bytes(), &[8, dim]);
    with_storage!(out.dtype, F => with_storage!(codes.radius, S => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `tokens` tokens of as many heads as the frame, which codes, radii and `out` hold.
        unsafe {
            spherical::restore_spherical::launch_unchecked::<F, S, R>(
                client, count, CubeDim::new_1d(THREADS), vector, FRAME_VECTOR,
                array(&codes.codes, codes.words()), array(&codes.radii, rows),
                array(&frame.means, frame.heads * dim / FRAME_VECTOR), array(&frame.channels, 2 * dim / FRAME_VECTOR),
                array(&frame.levels, LEVELS), array(&out.handle, out.len() / vector),
                tokens as u32, frame.heads as u32, dim as u32, codes.bits(), lanes, plane,
            );
        }
    }));
    Ok(())
}
