//! Device results on their way to the host.

use std::future::Future;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use cubecl::bytes::Bytes;
use cubecl::server::ServerError;
use tether_core::{CoreError, DType, HostTensor, Readback, Shape, TensorData};

/// Bytes from which on results are taken over by several threads, and how many these are at most.
const MANY_BYTES: usize = 4 << 20;
const MOST_THREADS: usize = 8;

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
        let tensor = |(bytes, (shape, dtype)): (&Bytes, &(Shape, DType))| {
            let len = shape.iter().product::<usize>() * dtype.bytes();
            let data = bytes.get(..len).and_then(|b| TensorData::from_le_bytes(*dtype, b));
            HostTensor::new(
                shape,
                data.ok_or_else(|| device(format!("{} bytes of {len} came back", bytes.len())))?,
            )
        };
        let pairs: Vec<_> = all.iter().zip(&self.described).collect();
        let bytes = all.iter().map(|bytes| bytes.len()).sum::<usize>();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        if bytes < MANY_BYTES || threads == 1 {
            return pairs.into_iter().map(tensor).collect();
        }
        // Memory that was never touched costs more than what is copied into it, and waits for nobody.
        thread::scope(|scope| {
            let each = pairs.len().div_ceil(threads);
            let parts = pairs.chunks(each).map(|part| {
                scope.spawn(move || part.iter().copied().map(tensor).collect::<Result<Vec<_>, _>>())
            });
            let parts: Vec<_> = parts.collect();
            let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|e| resume_unwind(e)));
            Ok(joined.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })
    }
}
