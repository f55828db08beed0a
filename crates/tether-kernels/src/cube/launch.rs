//! Arguments and sizes of launches.

use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::DType;

use crate::kernels::words::WordsLaunch;

/// Runs `$body` with `$F` as the storage type of `$dtype`.
macro_rules! with_storage {
    ($dtype:expr, $F:ident => $body:expr) => {
        match $dtype {
            tether_core::DType::F32 => {
                type $F = f32;
                $body
            }
            tether_core::DType::F16 => {
                type $F = half::f16;
                $body
            }
            tether_core::DType::BF16 => {
                type $F = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_storage;

/// Threads of a cube in kernels that do one element a thread.
pub(crate) const THREADS: u32 = 256;

/// A whole buffer of `len` elements as a kernel argument.
pub(crate) fn array<R: Runtime>(handle: &Handle, len: usize) -> ArrayArg<R> {
    #[allow(unsafe_code, reason = "CubeCL cannot know a buffer's element count")]
    // SAFETY: every buffer of this crate is made with at least `len` elements of the kernel's type: stores by `StoreSpec`, tensors by
    // their shape, tables by the slice they were uploaded from. Launches are bounds-checked by `len` besides.
    unsafe {
        ArrayArg::from_raw_parts(handle.clone(), len)
    }
}

/// Cubes for `len` elements, one a thread. Spread over two axes, because one axis may hold 65535 cubes only.
pub(crate) fn flat(len: usize) -> (CubeCount, CubeDim) {
    flat_by(len, THREADS)
}

/// [`flat`] with cubes of `threads` threads.
pub(crate) fn flat_by(len: usize, threads: u32) -> (CubeCount, CubeDim) {
    let (x, y) = spread(len.div_ceil(threads as usize));
    (CubeCount::Static(x, y, 1), CubeDim::new_1d(threads))
}

/// Two axes of at least `count` cubes together, the first one counting fast; one axis may hold 65535 cubes only.
pub(crate) fn spread(count: usize) -> (u32, u32) {
    let x = count.clamp(1, 32_768);
    (x as u32, count.div_ceil(x).max(1) as u32)
}

/// Longest table that rides with a launch: a kernel looks through all of it for a word.
#[derive(Clone, Copy)]
pub(crate) enum Inline {
    /// None: a thread does too little to look.
    Never = 0,
    /// Every thread looks for a word among the scalars, in a kernel that moves much for it.
    Searched = 16,
    /// The cube stages the scalars in shared memory.
    Staged = 64,
}

/// A small table as a kernel argument: with the launch, or in a buffer when it is longer than `inline`.
pub(crate) fn words<R: Runtime>(client: &ComputeClient<R>, table: &[u32], inline: Inline) -> WordsLaunch<R> {
    let longest = inline as usize;
    if table.len() > longest {
        let (handle, len) = uploaded(client, table);
        return WordsLaunch::new(SequenceArg::new(), std::iter::once(array(&handle, len)).collect());
    }
    // Each length is a kernel of its own, so lengths are rounded up.
    let len = [4, 16].into_iter().find(|&len| table.len() <= len).unwrap_or(longest);
    let inline = table.iter().copied().chain(std::iter::repeat(0)).take(len).collect();
    WordsLaunch::new(inline, SequenceArg::new())
}

/// A small table on the device. Never empty, which some devices refuse; the length says how much counts.
pub(crate) fn uploaded<R: Runtime>(client: &ComputeClient<R>, table: &[u32]) -> (Handle, usize) {
    let handle = client.create_from_slice(u32::as_bytes(if table.is_empty() { &[0] } else { table }));
    (handle, table.len().max(1))
}

/// Elements of a vector access: as many as the device moves at once, and as divide every one of `divisors`.
pub(crate) fn vector_size<R: Runtime>(
    client: &ComputeClient<R>,
    element_bytes: usize,
    divisors: &[usize],
) -> usize {
    let fits = |&size: &usize| divisors.iter().all(|d| d.is_multiple_of(size));
    // CUDA names sizes beyond its widest access.
    client
        .io_optimized_vector_sizes(element_bytes)
        .filter(|size| size * element_bytes <= 16)
        .find(fits)
        .unwrap_or(1)
}

/// Threads of a plane, where a cube's threads are laid out in whole planes and planes can exchange values.
pub(crate) fn planes<R: Runtime>(client: &ComputeClient<R>) -> Option<u32> {
    let properties = client.properties();
    let exchanges = properties.features.plane.contains(cubecl::ir::features::Plane::Ops);
    (exchanges && properties.hardware.plane_size_min >= 1).then_some(properties.hardware.plane_size_min)
}

/// Threads of a plane where planes exchange values and each is a run of threads of a cube of `threads`, a power of two; else 0. Where a
/// plane's size is not fixed, what it consists of is nowhere said.
pub(crate) fn whole_planes<R: Runtime>(client: &ComputeClient<R>, threads: u32) -> u32 {
    let properties = client.properties();
    match properties.hardware.plane_size_max {
        size if size == properties.hardware.plane_size_min
            && size.is_power_of_two()
            && (8..=threads).contains(&size)
            && properties.features.plane.contains(cubecl::ir::features::Plane::Ops) =>
        {
            size
        }
        _ => 0,
    }
}

/// True where matrix units take 16 x 8 x 16 products of `dtype` into `f32`, and operands come straight from shared memory: CUDA's, whose
/// register layout the kernels are made for.
pub(crate) fn has_matrix_units<R: Runtime>(client: &ComputeClient<R>, dtype: DType) -> bool {
    let properties = client.properties();
    let matmul = &properties.features.matmul;
    let of = |dtype| with_storage!(dtype, F => F::as_type_native_unchecked().storage_type());
    let (ab, cd_type) = (of(dtype), of(DType::F32));
    let wanted = MmaConfig { a_type: ab, b_type: ab, cd_type, m: 16, n: 8, k: 16 };
    dtype != DType::F32
        && matmul.mma.contains(&wanted)
        && matmul.ldmatrix.contains(&ab)
        && properties.hardware.plane_size_min == 32
}
