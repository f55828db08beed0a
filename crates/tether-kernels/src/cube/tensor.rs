//! A dense tensor on the device.

use cubecl::server::Handle;
use tether_core::{CoreError, DType, Shape, checks};

/// Bytes of the widest access of a kernel.
const ALIGNMENT: usize = 16;

/// Row-major elements in device memory.
#[derive(Clone, Debug)]
pub struct CubeTensor {
    pub(crate) handle: Handle,
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
}

impl CubeTensor {
    /// A tensor over device memory that already holds it: no copy.
    ///
    /// # Errors
    /// [`CoreError::TensorLength`] when `handle` holds fewer than the product of `shape` elements, [`CoreError::Geometry`] when it does not
    /// begin at a multiple of 16 bytes of its memory, [`CoreError::SizeOverflow`] for more than 2^32 elements: kernels read 16 bytes at a time and
    /// count with 32 bits.
    pub fn from_handle(handle: Handle, shape: &[usize], dtype: DType) -> Result<Self, CoreError> {
        let expected = checks::index_space("tensor elements", shape, u32::MAX as usize)?;
        let got = handle.size_in_used() as usize / dtype.bytes();
        if got < expected {
            return Err(CoreError::TensorLength { shape: shape.into(), expected, got });
        }
        let value = handle.offset_start.unwrap_or(0) as usize;
        if !value.is_multiple_of(ALIGNMENT) {
            let requirement = "must be a multiple of 16 bytes";
            return Err(CoreError::Geometry { field: "offset of the handle", value, requirement });
        }
        Ok(Self { handle, shape: shape.into(), dtype })
    }

    /// The device memory.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
