//! A dense tensor on the device.

use cubecl::server::Handle;
use tether_core::{DType, Shape};

/// Row-major elements in device memory.
#[derive(Clone, Debug)]
pub struct CubeTensor {
    pub(crate) handle: Handle,
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
}

impl CubeTensor {
    /// A tensor over device memory that already holds it: no copy. `handle` must hold the product of `shape` elements of `dtype`.
    pub fn from_handle(handle: Handle, shape: &[usize], dtype: DType) -> Self {
        Self { handle, shape: shape.into(), dtype }
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
