//! Measuring and correcting for step reuse: streams over whole tensors.

use cubecl::prelude::*;
use tether_core::CoreError;

use crate::CubeTensor;
use crate::cube::launch::{array, flat, vector_size, whole_planes, with_storage};
use crate::kernels::reuse::{self, AT_ONCE, SUMS, THREADS};

/// Cubes of a sum, at most: eight for each processor of a large device. The same everywhere, because the order of a sum depends on it.
const CUBES: usize = 1056;
/// Threads that share a token, at most, where planes are of no use.
const TOKEN_LANES: u32 = 32;

/// What one launch adds up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sums<'a> {
    /// `|a - b|`, `|a|` and `|b|` over `len` elements of each, a's from element `ahead` on; `|a|` alone without b.
    Magnitudes { a: &'a CubeTensor, b: Option<&'a CubeTensor>, ahead: usize, len: usize },
    /// `|a|_2 / |b|_2` over tokens of `width` elements.
    TokenRatios { a: &'a CubeTensor, b: &'a CubeTensor, tokens: usize, width: usize, smallest: f32 },
}

/// How it is spread. Lengths count vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blueprint {
    vector: usize,
    len: usize,
    rounds: usize,
    /// Threads of a token.
    lanes: u32,
    plane: u32,
    /// Cubes, and numbers that each leaves.
    cubes: usize,
    numbers: usize,
}

impl Blueprint {
    /// Numbers that are left.
    pub(crate) fn partials(&self) -> usize {
        self.cubes * self.numbers
    }
}

impl Sums<'_> {
    pub(crate) fn blueprint<R: Runtime>(&self, client: &ComputeClient<R>) -> Result<Blueprint, CoreError> {
        let plane = whole_planes(client, THREADS);
        let (vector, len, lanes, work, share, numbers) = match *self {
            Self::Magnitudes { a, len, ahead, .. } => {
                let vector = vector_size(client, a.dtype.bytes(), &[len, ahead]);
                let share = (THREADS * AT_ONCE) as usize;
                (vector, len / vector, THREADS, len / vector, share, SUMS as usize)
            }
            Self::TokenRatios { a, tokens, width, .. } => {
                let vector = vector_size(client, a.dtype.bytes(), &[width]);
                let most = if plane == 0 { TOKEN_LANES } else { plane };
                let useful = (width / vector).div_ceil(AT_ONCE as usize).next_power_of_two();
                let lanes = useful.min(most as usize) as u32;
                (vector, width / vector, lanes, tokens, (THREADS / lanes) as usize, 1)
            }
        };
        // The last round may count beyond the end.
        if work > u32::MAX as usize - CUBES * share {
            return Err(CoreError::SizeOverflow { what: "vectors of a sum", factors: [work].into() });
        }
        let cubes = work.div_ceil(share).min(CUBES);
        let rounds = work.div_ceil(share * cubes.max(1));
        Ok(Blueprint { vector, len, rounds, lanes, plane, cubes, numbers })
    }

    /// Leaves the cubes' sums in `partials`, from `first` on.
    pub(crate) fn launch<R: Runtime>(
        &self,
        client: &ComputeClient<R>,
        blueprint: &Blueprint,
        partials: &CubeTensor,
        first: usize,
    ) {
        let &Blueprint { vector, len, rounds, lanes, plane, cubes, .. } = blueprint;
        if cubes == 0 {
            return;
        }
        let count = CubeCount::Static(cubes as u32, 1, 1);
        let dim = CubeDim::new_1d(THREADS);
        let whole = |t: &CubeTensor| array::<R>(&t.handle, t.len() / vector);
        let out = array(&partials.handle, partials.len());
        match *self {
            Self::Magnitudes { a, b, ahead, .. } => with_storage!(a.dtype, F => {
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel reads `len` vectors, a's after `ahead`, which the tensors have (checked by `measure`), and writes
                // `SUMS` numbers a cube, for which `partials` has room from `first` on.
                unsafe {
                    reuse::sum_magnitudes::launch_unchecked::<F, R>(
                        client, count, dim, vector, whole(a), whole(b.unwrap_or(a)), out, (ahead / vector) as u32,
                        len as u32, rounds as u32, first as u32, b.is_some(), plane,
                    );
                }
            }),
            Self::TokenRatios { a, b, tokens, smallest, .. } => with_storage!(a.dtype, F => {
                let strides = len.div_ceil((lanes * AT_ONCE) as usize);
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel reads `tokens` tokens of `len` vectors, which both tensors have (checked by `measure`), and writes a
                // number a cube, for which `partials` has room from `first` on.
                unsafe {
                    reuse::sum_token_ratios::launch_unchecked::<F, R>(
                        client, count, dim, vector, whole(a), whole(b), out, tokens as u32, len as u32, rounds as u32,
                        strides as u32, first as u32, smallest, lanes, plane,
                    );
                }
            }),
        }
    }
}

/// Bindings that a launch has besides its tensors: what is written, rows of a correction, scalars.
const OTHER_BINDINGS: usize = 3;

fn bindable<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    tensors: usize,
) -> Result<(), CoreError> {
    if tensors + OTHER_BINDINGS <= client.properties().hardware.max_bindings as usize {
        return Ok(());
    }
    Err(CoreError::Unsupported { engine, feature: "so many tensors in one operation" })
}

/// `out <- slope * (sum_j w_j t_j) - offset`, on top of `out` where `onto`; slopes and offsets are one of each, or a channel's.
pub(crate) fn launch_weighted_sum<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    terms: &[(f32, &CubeTensor)],
    onto: bool,
    (slopes, offsets): (&[f32], &[f32]),
    out: &CubeTensor,
) -> Result<(), CoreError> {
    bindable(client, engine, terms.len())?;
    let channels = slopes.len();
    let vector =
        vector_size(client, out.dtype.bytes(), &[out.len(), if channels > 1 { channels } else { 0 }]);
    let wide = vector_size(client, size_of::<f32>(), &[vector]);
    let len = out.len() / vector;
    if len == 0 {
        return Ok(());
    }
    let rows = (channels > 1).then(|| {
        let rows = [slopes, offsets].concat();
        array::<R>(&client.create_from_slice(f32::as_bytes(&rows)), rows.len() / wide)
    });
    let (count, dim) = flat(len);
    with_storage!(out.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `len` vectors, which `out` and every term have (checked by `combine`); a channel is below `channels`.
        unsafe {
            reuse::weighted_sum::launch_unchecked::<F, R>(
                client, count, dim, vector, wide,
                terms.iter().map(|(_, t)| array(&t.handle, len)).collect(),
                terms.iter().map(|(weight, _)| *weight).collect(),
                rows.into_iter().collect(), array(&out.handle, len), len as u32, slopes[0], offsets[0],
                (channels / vector).max(1) as u32, onto,
            );
        }
    });
    Ok(())
}

/// `value` enters the rungs of `ladder`, all of which change.
pub(crate) fn launch_climb<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    value: &CubeTensor,
    ladder: &[CubeTensor],
    gap: f32,
) -> Result<(), CoreError> {
    bindable(client, engine, ladder.len())?;
    let vector = vector_size(client, value.dtype.bytes(), &[value.len()]);
    let len = value.len() / vector;
    if len == 0 || ladder.is_empty() {
        return Ok(());
    }
    let (count, dim) = flat(len);
    with_storage!(value.dtype, F => {
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `len` vectors, which the value and every rung have (checked by `climb`).
        unsafe {
            reuse::climb::launch_unchecked::<F, R>(
                client, count, dim, vector, array(&value.handle, len),
                ladder.iter().map(|rung| array(&rung.handle, len)).collect(), len as u32, 1.0 / gap,
            );
        }
    });
    Ok(())
}
