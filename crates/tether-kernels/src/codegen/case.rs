//! Running a case: what an operation launches on a recorder, and under which name it is kept.

use std::cell::RefCell;
use std::sync::Arc;

use tether_core::{CoreError, DType, Engine, HostTensor};

use super::recorder::{Launch, Recorder, Source};
use crate::Cube;

/// What a case did.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) case: String,
    /// Of the tensors; none for an operation that has one dtype only.
    pub(super) dtype: Option<DType>,
    pub(super) done: Done,
}

#[derive(Clone, Debug)]
pub(super) enum Done {
    /// A kernel was launched, and compiled or not.
    Kernel { name: String, compiled: Arc<Result<Source, String>> },
    /// The engine does not have the operation on this target.
    Refused(&'static str),
    /// The case itself is wrong.
    Wrong(String),
}

/// The cases of one target.
pub(super) struct Cases {
    engine: Cube<Recorder>,
    events: RefCell<Vec<Event>>,
}

impl Cases {
    pub(super) fn new(engine: Cube<Recorder>) -> Self {
        Self { engine, events: RefCell::default() }
    }

    /// Runs `operation` once for each dtype.
    pub(super) fn each(
        &self,
        case: impl Into<String>,
        operation: impl Fn(&Cube<Recorder>, DType) -> Result<(), CoreError>,
    ) {
        let case = case.into();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            self.run(&case, Some(dtype), |engine| operation(engine, dtype));
        }
    }

    /// Runs an operation that has one dtype only.
    pub(super) fn once(
        &self,
        case: impl Into<String>,
        operation: impl Fn(&Cube<Recorder>) -> Result<(), CoreError>,
    ) {
        self.run(&case.into(), None, operation);
    }

    fn run(
        &self,
        case: &str,
        dtype: Option<DType>,
        operation: impl FnOnce(&Cube<Recorder>) -> Result<(), CoreError>,
    ) {
        let result = operation(&self.engine);
        let flushed = self.engine.client().flush();
        let mut all: Vec<Done> = self.engine.client().info().take().into_iter().map(kernel).collect();
        match result {
            Ok(()) => {}
            Err(CoreError::Unsupported { feature, .. }) => all.push(Done::Refused(feature)),
            Err(error) => all.push(Done::Wrong(error.to_string())),
        }
        if let Err(error) = flushed {
            all.push(Done::Wrong(format!("{error:?}")));
        }
        let event = |done| Event { case: case.to_owned(), dtype, done };
        self.events.borrow_mut().extend(all.into_iter().map(event));
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events.into_inner()
    }
}

/// Zeros on a device.
pub(super) fn zeros<E: Engine>(engine: &E, shape: &[usize], dtype: DType) -> Result<E::Tensor, CoreError> {
    engine.upload(&HostTensor::zeros(shape, dtype)?)
}

fn kernel(launch: Launch) -> Done {
    match name_of(launch.kernel) {
        Some(name) => Done::Kernel { name, compiled: launch.compiled },
        None => Done::Wrong(format!("{} is not in `kernels`", launch.kernel)),
    }
}

/// `decode::combine_parts`, from `tether_kernels::kernels::decode::combine::combine_parts::CombineParts<..>`: modules inside a kernel's file
/// are its own business.
fn name_of(type_name: &str) -> Option<String> {
    let path = type_name.split('<').next()?;
    let (module, below) = path.split_once("::kernels::")?.1.split_once("::")?;
    let function = below.rsplit("::").nth(1)?;
    Some(format!("{module}::{function}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_named_by_module_and_function() {
        let name = |path: &str| name_of(path);
        let plain = "tether_kernels::kernels::copy::fill_zero::FillZero<f32, a::Recorder<a::kernels::T>>";
        assert_eq!(name(plain).as_deref(), Some("copy::fill_zero"));
        assert_eq!(name("t::kernels::decode::matrix::run::Run<f32>").as_deref(), Some("decode::run"));
        assert_eq!(name("t::kernels::decode::Run"), None);
        assert_eq!(name("t::cube::run::Run"), None);
    }
}
