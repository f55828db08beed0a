//! Codes and back.

use cubecl::prelude::*;
use tether_core::CoreError;

use crate::{CubeCodes, CubeTensor};

pub(crate) fn launch<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _x: &CubeTensor,
    _codes: &CubeCodes,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "codes" })
}

pub(crate) fn launch_inverse<R: Runtime>(
    _client: &ComputeClient<R>,
    engine: &'static str,
    _codes: &CubeCodes,
    _out: &CubeTensor,
) -> Result<(), CoreError> {
    Err(CoreError::Unsupported { engine, feature: "codes" })
}
