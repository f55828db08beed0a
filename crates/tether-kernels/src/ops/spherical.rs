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

/// What [`launch_pair`] binds: for each side numbers, means, channels, codes and radii, and for both levels and places.
const PAIR_BINDINGS: u32 = 12;

/// Codes keys and values of one shape to rows `places` of their codes, in one launch where the device has room for the arguments and planes for the rows (else two
/// sets of shared memory would be needed), in two elsewhere.
pub(crate) fn launch_pair<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    [k, v]: [&CubeTensor; 2],
    [k_frame, v_frame]: [&CubeFrame; 2],
    [k_codes, v_codes]: [&CubeSpherical; 2],
    places: &CubeIndices,
) -> Result<(), CoreError> {
    let (dim, heads) = (k_frame.head_dim, k_frame.heads);
    let tokens = k.len() / (heads * dim);
    let Blueprint { lanes, plane, count } = Blueprint::new(client, engine, (tokens, heads, dim))?;
    let together = k.shape == v.shape && k.dtype == v.dtype && plane >= lanes;
    let (CubeCount::Static(x, y, _), true) =
        (count, together && client.properties().hardware.max_bindings >= PAIR_BINDINGS)
    else {
        launch(client, engine, k, k_frame, k_codes, Some(places))?;
        return launch(client, engine, v, v_frame, v_codes, Some(places));
    };
    let count = CubeCount::Static(x, y, 2);
    let vector = vector_size(client, k.dtype.bytes(), &[8, dim]);
    let words = |codes: &CubeSpherical| vector_size(client, 4, &[codes.bits() as usize, codes.row_words()]);
    let (k_words, v_words) = (words(k_codes), words(v_codes));
    let unbiased = |codes: &CubeSpherical| codes.problem.format.fit == RadiusFit::Unbiased;
    let means = |frame: &CubeFrame| array(&frame.means, heads * dim / FRAME_VECTOR);
    let channels = |frame: &CubeFrame| array(&frame.channels, 2 * dim / FRAME_VECTOR);
    with_storage!(k.dtype, F => with_storage!(k_codes.radius, S => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: as in `launch`, for each side; both have `tokens` tokens of as many rows, and radii of the one dtype that the device stores.
        unsafe {
            spherical::encode_spherical_pair::launch_unchecked::<F, S, R>(
                client, count, CubeDim::new_1d(THREADS), vector, FRAME_VECTOR, k_words, v_words,
                array(&k.handle, k.len() / vector), array(&v.handle, v.len() / vector),
                means(k_frame), means(v_frame), channels(k_frame), channels(v_frame),
                array(&k_frame.levels, LEVELS), array(places.handle(), places.len()),
                array(&k_codes.codes, k_codes.words() / k_words), array(&v_codes.codes, v_codes.words() / v_words),
                array(&k_codes.radii, k_codes.problem.rows()), array(&v_codes.radii, v_codes.problem.rows()),
                tokens as u32, heads as u32, dim as u32, k_codes.bits(), v_codes.bits(), lanes,
                unbiased(k_codes), unbiased(v_codes), plane,
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
