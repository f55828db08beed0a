//! What a benchmark needs of a device beside the operations: noise to work on, waiting, and the device's own ceilings.

use cubecl::prelude::*;
use tether_core::{CoreError, DType};

use super::launch::{array, flat, has_matrix_units, vector_size, with_storage};
use super::{Cube, CubeTensor};
use crate::kernels::ceiling;

/// Threads of a cube in [`Cube::read_through`], and stretches that each reads.
const READ: (usize, usize) = (256, 16);

impl<R: Runtime> Cube<R> {
    /// A tensor of uniform noise with mean 0 and variance 1, the same for the same seed. Its bytes may be more than 4 GiB.
    ///
    /// # Errors
    /// [`CoreError::Unsupported`], [`CoreError::SizeOverflow`].
    pub fn noise(&self, shape: &[usize], dtype: DType, seed: u32) -> Result<CubeTensor, CoreError> {
        self.require(dtype)?;
        let len: usize = shape.iter().product();
        let vector = vector_size(&self.client, dtype.bytes(), &[len]);
        if len / vector > u32::MAX as usize {
            return Err(CoreError::SizeOverflow { what: "tensor elements", factors: shape.into() });
        }
        if (len * dtype.bytes()) as u64 > self.client.properties().memory.max_page_size {
            return Err(CoreError::Unsupported { engine: self.name, feature: "buffers of this size" });
        }
        let handle = self.client.empty(len.max(1) * dtype.bytes());
        let (count, dim) = flat(len / vector);
        with_storage!(dtype, F => {
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `len / vector` vectors.
            unsafe {
                ceiling::noise::launch_unchecked::<F, R>(
                    &self.client, count, dim, vector, array(&handle, len / vector), (len / vector) as u32, seed,
                );
            }
        });
        Ok(CubeTensor { handle, shape: shape.into(), dtype })
    }

    /// Waits for everything that has been queued.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    pub fn wait(&self) -> Result<(), CoreError> {
        let done = cubecl::future::block_on(self.client.sync());
        done.map_err(|error| CoreError::Device { engine: self.name, message: format!("{error:?}") })
    }

    /// Copies `from` to `to`: the device's copy ceiling.
    ///
    /// # Errors
    /// [`CoreError::Count`] for sizes that differ or are not whole 16-byte words.
    pub fn copy_through(&self, from: &CubeTensor, to: &CubeTensor) -> Result<(), CoreError> {
        let bytes = |t: &CubeTensor| t.len() * t.dtype.bytes();
        let words = bytes(from) / 16;
        if bytes(from) != words * 16 || bytes(to) != bytes(from) {
            return Err(CoreError::Count { what: "bytes", expected: words * 16, got: bytes(to) });
        }
        let (count, dim) = flat(words);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `words` words, which both have.
        unsafe {
            ceiling::copy_words::launch_unchecked::<R>(
                &self.client,
                count,
                dim,
                4,
                array(&from.handle, words),
                array(&to.handle, words),
                words as u32,
            );
        }
        Ok(())
    }

    /// Reads all of `from` and keeps a checksum of it: the device's read ceiling. `to` is `f32`, at least 1/256 of `from`'s bytes.
    ///
    /// # Errors
    /// [`CoreError::Count`] when `to` is too small.
    pub fn read_through(&self, from: &CubeTensor, to: &CubeTensor) -> Result<(), CoreError> {
        let words = from.len() * from.dtype.bytes() / 16;
        let (threads, per_thread) = READ;
        let cubes = words.div_ceil(threads * per_thread);
        if to.len() < cubes * threads {
            return Err(CoreError::Count { what: "checksums", expected: cubes * threads, got: to.len() });
        }
        let x = cubes.min(32_768);
        let count = CubeCount::Static(x as u32, cubes.div_ceil(x) as u32, 1);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `words` words, and writes one checksum a thread, of which `to` holds enough for whole rows of cubes.
        unsafe {
            ceiling::read_words::launch_unchecked::<R>(
                &self.client,
                count,
                CubeDim::new_1d(threads as u32),
                4,
                array(&from.handle, words),
                array(&to.handle, to.len()),
                words as u32,
                per_thread as u32,
            );
        }
        Ok(())
    }

    /// Matrix products out of registers, `rounds` times eight a warp in `to.len() / 32` warps, and the operations that they are; `None`
    /// without CUDA's matrix units. `to` is `f32` and a multiple of 128 long.
    pub fn multiply_through(&self, to: &CubeTensor, rounds: u32, dtype: DType) -> Option<f64> {
        if !has_matrix_units(&self.client, dtype) {
            return None;
        }
        let cubes = (to.len() / 128).min(32_768);
        with_storage!(dtype, F => {
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: one number a thread is written.
            unsafe {
                ceiling::multiply_registers::launch_unchecked::<F, R>(
                    &self.client, CubeCount::Static(cubes as u32, 1, 1), CubeDim::new_1d(128),
                    array(&to.handle, to.len()), rounds,
                );
            }
        });
        Some(2.0 * 16.0 * 8.0 * 16.0 * 8.0 * f64::from(rounds) * (cubes * 4) as f64)
    }

    /// Launches a kernel that does nothing: what a launch costs.
    pub fn launch_nothing(&self, to: &CubeTensor) {
        #[allow(unsafe_code, reason = "one word is written")]
        // SAFETY: `to` has a word.
        unsafe {
            ceiling::empty::launch_unchecked::<R>(
                &self.client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(32),
                array(&to.handle, to.len()),
            );
        }
    }
}
