//! Device results on their way to the host.

use std::future::Future;
use std::pin::Pin;

use cubecl::bytes::Bytes;
use cubecl::server::ServerError;
use tether_core::{CoreError, DType, HostTensor, Readback, Shape, TensorData};

type Pending = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, ServerError>> + Send>>;

/// Copies that have been queued.
pub struct CubeReadback {
    pub(super) pending: Pending,
    pub(super) described: Vec<(Shape, DType)>,
    pub(super) engine: &'static str,
}

impl std::fmt::Debug for CubeReadback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CubeReadback").field("described", &self.described).finish_non_exhaustive()
    }
}

impl Readback for CubeReadback {
    fn wait(self) -> Result<Vec<HostTensor>, CoreError> {
        let device = |message: String| CoreError::Device { engine: self.engine, message };
        let all = cubecl::future::block_on(self.pending).map_err(|e| device(format!("{e:?}")))?;
        let tensors = all.iter().zip(&self.described).map(|(bytes, (shape, dtype))| {
            let len = shape.iter().product::<usize>() * dtype.bytes();
            let data = bytes.get(..len).and_then(|b| TensorData::from_le_bytes(*dtype, b));
            HostTensor::new(
                shape,
                data.ok_or_else(|| device(format!("{} bytes of {len} came back", bytes.len())))?,
            )
        });
        tensors.collect()
    }
}
