//! Arguments and sizes of launches.

use cubecl::prelude::*;
use cubecl::server::Handle;

/// Threads of a cube in kernels that do one element a thread.
pub(super) const THREADS: u32 = 256;

/// A whole buffer of `len` elements as a kernel argument.
pub(super) fn array<R: Runtime>(handle: &Handle, len: usize) -> ArrayArg<R> {
    #[allow(unsafe_code, reason = "CubeCL cannot know a buffer's element count")]
    // SAFETY: every buffer of this crate is made with at least `len` elements of the kernel's type: stores by `StoreSpec`, tensors by
    // their shape, tables by the slice they were uploaded from. Launches are bounds-checked by `len` besides.
    unsafe {
        ArrayArg::from_raw_parts(handle.clone(), len)
    }
}

/// Cubes for `len` elements, one a thread. Spread over two axes, because one axis may hold 65535 cubes only.
pub(super) fn flat(len: usize) -> (CubeCount, CubeDim) {
    let cubes = len.div_ceil(THREADS as usize).max(1);
    let x = cubes.min(32_768);
    let y = cubes.div_ceil(x);
    (CubeCount::Static(x as u32, y as u32, 1), CubeDim::new_1d(THREADS))
}

/// A small table on the device. Never empty, which some devices refuse; the length says how much counts.
pub(super) fn uploaded<R: Runtime>(client: &ComputeClient<R>, table: &[u32]) -> (Handle, usize) {
    let handle = client.create_from_slice(u32::as_bytes(if table.is_empty() { &[0] } else { table }));
    (handle, table.len().max(1))
}
