//! What is checked of a batch of new tokens.

use cubecl::prelude::*;
use tether_core::{
    CoreError, DecodeProblem, NewQueries, PagedKv, batch_problem, check_lengths, check_positions,
    check_starts,
};

use super::{Cube, CubeAttention, CubeIndices, CubeTables};

impl<R: Runtime> Cube<R> {
    /// The problem of a batch whose arguments fit each other.
    pub(super) fn batch(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &CubeTables,
        attention: &CubeAttention,
    ) -> Result<DecodeProblem, CoreError> {
        let (q, k, v) = (queries.q, kv.k, kv.v);
        let extents = (tables.page_size, tables.groups, tables.page_bound);
        let problem = batch_problem(&q.shape, (&k.shape, &v.shape), extents)?;
        check_starts(queries.starts, tables.sequences, problem.sequences)?;
        check_lengths(queries.starts, tables.groups, &tables.lists.1)?;
        DecodeProblem::same_dtype(q.dtype, k.dtype, v.dtype)?;
        let positions = [kv.positions, queries.positions].map(|of| of.map(CubeIndices::shape));
        check_positions(&problem, positions[0], positions[1])?;
        attention.options.fit(problem.query_heads())?;
        Ok(problem)
    }
}
