//! Device results on their way to the host.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cubecl::bytes::Bytes;
use cubecl::server::ServerError;
use tether_core::{CoreError, DType, HostTensor, Readback, Shape, TensorData};

type Copied = Result<Vec<Bytes>, ServerError>;

enum State {
    Queued(Pin<Box<dyn Future<Output = Copied> + Send>>),
    Done(Copied),
}

/// Copies that have been queued.
pub struct CubeReadback {
    state: State,
    described: Vec<(Shape, DType)>,
    engine: &'static str,
}

impl CubeReadback {
    /// Queues `copies` now: a future does nothing until it is polled, and by then other work could have changed the data.
    pub(super) fn queue(
        copies: impl Future<Output = Copied> + Send + 'static,
        described: Vec<(Shape, DType)>,
        engine: &'static str,
    ) -> Self {
        let mut copies: Pin<Box<dyn Future<Output = Copied> + Send>> = Box::pin(copies);
        let state = match copies.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(copied) => State::Done(copied),
            Poll::Pending => State::Queued(copies),
        };
        Self { state, described, engine }
    }
}

impl std::fmt::Debug for CubeReadback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CubeReadback").field("described", &self.described).finish_non_exhaustive()
    }
}

impl Readback for CubeReadback {
    fn wait(self) -> Result<Vec<HostTensor>, CoreError> {
        let device = |message: String| CoreError::Device { engine: self.engine, message };
        let copied = match self.state {
            State::Queued(copies) => cubecl::future::block_on(copies),
            State::Done(copied) => copied,
        };
        let all = copied.map_err(|e| device(format!("{e:?}")))?;
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
