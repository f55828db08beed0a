//! Observation-window scores.

use cubecl::prelude::*;
use tether_core::{CoreError, WindowProblem, WindowSpec};

use crate::CubeTensor;

pub(crate) fn launch<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _problem: &WindowProblem,
    _spec: &WindowSpec,
    _q: &CubeTensor,
    _k: &CubeTensor,
    _out: &CubeTensor,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "window scores" })
}
