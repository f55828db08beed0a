//! The same operations of step reuse for every engine, against `f64` oracles: sizes that no vector divides, tensors larger than one round of a
//! launch, nothing at all, results that begin as NaN, and inputs that are NaN.
//!
//! A case returns what the engine refuses to upload and panics when a result is wrong.

mod correct;
mod measure;
mod steps;

use tether_core::{CoreError, DType, Engine, HostTensor, TensorData};
use tether_reuse::{HostReuse, ReuseEngine};

use crate::tensors;

pub use correct::{climbs_ladders, combines_tensors, makes_differences, refuses_tensors_that_do_not_fit};
pub use measure::{
    measures_nothing_as_nothing, measures_signals, refuses_grids_that_do_not_fit, tells_what_is_not_a_number,
};
pub use steps::reuses_steps_as_the_host_does;

type Upload<'a, E> = Box<dyn Fn(&HostTensor) -> Result<<E as ReuseEngine>::Owned, CoreError> + 'a>;
type Read<'a, E> = Box<dyn Fn(&<E as ReuseEngine>::Tensor) -> Result<HostTensor, CoreError> + 'a>;

/// An engine under test, and the way to it and back.
pub struct ReuseSubject<'a, E: ReuseEngine> {
    engine: &'a E,
    upload: Upload<'a, E>,
    read: Read<'a, E>,
}

impl<E: ReuseEngine> std::fmt::Debug for ReuseSubject<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReuseSubject").finish_non_exhaustive()
    }
}

impl<'a> ReuseSubject<'a, HostReuse> {
    /// The engine on host slices, which are `f32`.
    pub fn host(engine: &'a HostReuse) -> Self {
        let upload = |tensor: &HostTensor| {
            let unsupported = CoreError::Unsupported { engine: "host slices", feature: "16-bit elements" };
            tensor.as_f32().map(<[f32]>::to_vec).ok_or(unsupported)
        };
        let read = |tensor: &[f32]| HostTensor::from_f32(&[tensor.len()], tensor.to_vec());
        Self { engine, upload: Box::new(upload), read: Box::new(read) }
    }
}

impl<'a, E: Engine + ReuseEngine<Tensor = <E as Engine>::Tensor, Owned = <E as Engine>::Tensor>>
    ReuseSubject<'a, E>
{
    /// An engine with tensors of its own.
    pub fn device(engine: &'a E) -> Self {
        Self {
            engine,
            upload: Box::new(|tensor| engine.upload(tensor)),
            read: Box::new(|tensor| tensors::read(engine, tensor)),
        }
    }
}

impl<E: ReuseEngine> ReuseSubject<'_, E> {
    fn numbers(&self, tensor: &E::Tensor) -> Result<Vec<f32>, CoreError> {
        Ok((self.read)(tensor)?.to_f32_vec())
    }

    /// A tensor of NaN, for results.
    fn spoilt(&self, elements: usize, dtype: DType) -> Result<E::Owned, CoreError> {
        let data = TensorData::narrowed(dtype, &vec![f32::NAN; elements]);
        (self.upload)(&HostTensor::new(&[elements], data)?)
    }

    /// Leaves NaN in memory that the engine may give out next.
    fn poison(&self, elements: usize) -> Result<(), CoreError> {
        let held = [self.spoilt(elements.max(1), DType::F32)?, self.spoilt(elements.max(1), DType::F32)?];
        drop(held);
        Ok(())
    }
}

/// What an engine did, or what it said.
fn done<T, E: std::error::Error>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Widened numbers of a tensor that was made on the host, as the engine sees them.
fn random(seed: u64, elements: usize, dtype: DType, offset: f32) -> HostTensor {
    tensors::random(seed, &[elements], dtype, offset)
}
