//! Compaction.

use cubecl::prelude::*;
use tether_core::{PageProblem, RowProblem};

use crate::{CubeIndices, CubeTensor};

pub(crate) fn launch_rows<R: Runtime>(
    _client: &ComputeClient<R>,
    _problem: &RowProblem,
    _x: &CubeTensor,
    _indices: &CubeIndices,
    _out: &CubeTensor,
) {
}

pub(crate) fn launch_pages<R: Runtime>(
    _client: &ComputeClient<R>,
    _problem: &PageProblem,
    _pool: &CubeTensor,
    _indices: &CubeIndices,
    _out: &CubeTensor,
) {
}
