//! Exact selection of the best of many.

use cubecl::prelude::*;
use tether_core::{CoreError, TopKProblem};

use crate::{CubeIndices, CubeTensor};

pub(crate) fn launch<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _problem: &TopKProblem,
    _scores: &CubeTensor,
    _out: &CubeIndices,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "top-k" })
}
