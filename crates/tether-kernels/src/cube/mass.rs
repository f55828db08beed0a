//! Mean logits on the device.

use cubecl::prelude::*;
use tether_core::checks::{self, QueryExtents};
use tether_core::{CoreError, DType, LogitQuery};

use super::launch::{Inline, array, spread, vector_size, with_storage, words};
use super::{Cube, CubeTensor};
use crate::kernels::{column, mass};

/// Cubes that fill a large device twice over.
const CUBES: usize = 288;

/// Queries whose parts are added up by one launch.
struct Run {
    candidates: usize,
    parts: usize,
    scale: f32,
}

impl<R: Runtime> Cube<R> {
    pub(super) fn logits(&self, queries: &[LogitQuery<'_, Self>]) -> Result<CubeTensor, CoreError> {
        let mut extents = Vec::with_capacity(queries.len());
        for query in queries {
            let spec = &query.store.spec;
            let of_query = checks::query(spec, query.q.shape())?;
            checks::count("candidate lists", of_query.sequences, query.candidates.len())?;
            checks::slots(spec.slots, query.candidates.iter().flatten())?;
            self.require(query.q.dtype)?;
            let plan = Plan::of(&self.client, query, of_query);
            extents.push(plan);
        }
        let total: usize = extents.iter().map(|plan| plan.candidates).sum();
        let out = self.tensor(&[total], DType::F32)?;
        let dots_len: usize = extents.iter().map(|plan| plan.candidates * plan.parts()).sum();
        let dots = self.tensor(&[dots_len], DType::F32)?;
        let mut first = 0usize;
        let mut runs: Vec<Run> = Vec::new();
        for (query, plan) in queries.iter().zip(&extents).filter(|(_, plan)| plan.candidates > 0) {
            self.launch_dots(query, plan, &dots, first);
            first += plan.candidates * plan.parts();
            match runs.last_mut() {
                Some(run) if run.parts == plan.parts() && run.scale == plan.scale => {
                    run.candidates += plan.candidates;
                }
                _ => runs.push(Run { candidates: plan.candidates, parts: plan.parts(), scale: plan.scale }),
            }
        }
        let (mut candidate, mut part) = (0usize, 0usize);
        for run in runs {
            let (x, y) = spread(run.candidates);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `candidates` candidates of `parts` parts, which lie within `dots` and `out` by their sums above.
            unsafe {
                mass::sum_parts::launch_unchecked::<R>(
                    &self.client,
                    CubeCount::Static(x, y, 1),
                    CubeDim::new_1d(mass::SUM_THREADS),
                    array(&dots.handle, dots_len),
                    array(&out.handle, total),
                    candidate as u32,
                    run.candidates as u32,
                    part as u32,
                    run.parts as u32,
                    run.scale,
                );
            }
            candidate += run.candidates;
            part += run.candidates * run.parts;
        }
        Ok(out)
    }

    fn launch_dots(&self, query: &LogitQuery<'_, Self>, plan: &Plan, dots: &CubeTensor, first: usize) {
        let (store, q) = (query.store, query.q);
        let sequences = query.candidates.len();
        let mut table = vec![sequences as u32 + 1];
        for candidates in query.candidates {
            table.push(table[table.len() - 1] + candidates.len() as u32);
        }
        table.extend(query.candidates.iter().flatten().map(|&slot| store.row(slot)));
        let (x, y) = plan.cubes;
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `tokens` tokens of `width` vectors of each sequence, as many as Q has; the rows in `table` exist, and `dots`
        // has room for the candidates' parts from `first` on.
        unsafe {
            with_storage!(q.dtype, F => mass::query_dots::launch_unchecked::<F, R>(
                &self.client, CubeCount::Static(x, y, sequences as u32), CubeDim::new_1d(mass::THREADS), plan.size,
                array(&q.handle, q.len()), array(&store.moments, store.moments_len()), words(&self.client, &table, Inline::Staged),
                array(&dots.handle, dots.len()), plan.extents.tokens as u32, plan.width as u32,
                (store.spec.head_dim_k / plan.size) as u32, (plan.extents.heads / store.spec.kv_heads) as u32,
                store.row_len() as u32, first as u32, plan.columns as u32, plan.extents.heads > store.spec.kv_heads,
            ));
        }
    }
}

/// How one query is launched.
struct Plan {
    extents: QueryExtents,
    candidates: usize,
    /// Elements of a vector, vectors of a token, and of those side by side in a cube.
    size: usize,
    width: usize,
    columns: usize,
    /// Blocks of columns, and parts of the tokens.
    cubes: (u32, u32),
    scale: f32,
}

impl Plan {
    fn of<R: Runtime>(
        client: &ComputeClient<R>,
        query: &LogitQuery<'_, Cube<R>>,
        extents: QueryExtents,
    ) -> Self {
        let (dim, bytes) = (query.store.spec.head_dim_k, query.q.dtype.bytes());
        let size = vector_size(client, bytes, &[dim]);
        let columns = column::WIDE / (size * bytes);
        let width = extents.heads * dim / size;
        let blocks = width.div_ceil(columns);
        let lanes = mass::THREADS as usize / columns;
        let parts =
            CUBES.div_ceil(blocks * extents.sequences).clamp(1, extents.tokens.div_ceil(lanes).max(1));
        let scale = 1.0 / (extents.tokens as f64 * extents.heads as f64 * (dim as f64).sqrt());
        Self {
            extents,
            candidates: query.candidates.iter().map(Vec::len).sum(),
            size,
            width,
            columns,
            cubes: (blocks as u32, parts as u32),
            scale: scale as f32,
        }
    }

    /// Parts of a candidate's logit.
    fn parts(&self) -> usize {
        self.cubes.0 as usize * self.cubes.1 as usize
    }
}
