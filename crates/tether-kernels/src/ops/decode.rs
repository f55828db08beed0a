//! Paged decode attention.

use cubecl::prelude::*;
use tether_core::{CoreError, DecodeProblem};

use crate::{CubeCodes, CubeTables, CubeTensor};

#[allow(clippy::too_many_arguments, reason = "a launch")]
pub(crate) fn launch<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _problem: &DecodeProblem,
    _tables: &CubeTables,
    _scale: f32,
    _q: &CubeTensor,
    _k: &CubeTensor,
    _v: &CubeTensor,
    _out: &CubeTensor,
    _lse: &CubeTensor,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "decode" })
}

#[allow(clippy::too_many_arguments, reason = "a launch")]
pub(crate) fn launch_codes<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _problem: &DecodeProblem,
    _tables: &CubeTables,
    _scale: f32,
    _q: &CubeTensor,
    _k: &CubeCodes,
    _v: &CubeCodes,
    _out: &CubeTensor,
    _lse: &CubeTensor,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "decode" })
}
