//! Observation-window scores.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::{CoreError, DType, Pool, WindowProblem, WindowSpec};

use crate::cube::launch::{array, flat, has_matrix_units, vector_size, with_storage};
use crate::kernels::products::{BLOCK, THREADS};
use crate::kernels::window::{self, ExtentsLaunch, Matrix};
use crate::{CubeIndices, CubeTensor};

/// Cubes of a multiprocessor that run at once, in the first pass and in the second: with matrix units, as registers allow (for 4 warps), and
/// without.
const MATRIX_CUBES: [u32; 2] = [3, 4];
const PLAIN_CUBES: [u32; 2] = [4, 4];
/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: u32 = 32;
/// Query rows of a cube at most, with matrix units.
const MATRIX_ROWS: u32 = 128;
/// Warps of a cube, where there are query rows for them or tokens to share.
const WARPS: u32 = 4;
/// Tokens of a tile, with matrix units: fewer than 64 leave registers and shared memory for more cubes at once.
const TILE: u32 = 32;

/// Keys, `[kv_heads, tokens, head_dim]`, or a pool and the rows of it that they are, `[kv_heads, tokens]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a> {
    pub(crate) data: &'a CubeTensor,
    pub(crate) rows: Option<&'a CubeIndices>,
}

/// Which kernels, and how the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blueprint {
    matrix: Option<Matrix>,
    /// What is smoothed as one, of a key head.
    units: u32,
    unit_blocks: u32,
    /// Query rows of a block.
    block_rows: u32,
    /// Cubes along the tokens, of the first pass and of the second.
    parts: [u32; 2],
}

impl Blueprint {
    fn new<R: Runtime>(
        client: &ComputeClient<R>,
        engine: &'static str,
        problem: &WindowProblem,
        spec: &WindowSpec,
        k: Keys<'_>,
    ) -> Result<Self, CoreError> {
        let unsupported = |feature| CoreError::Unsupported { engine, feature };
        let (units, unit_rows) = (units(problem, spec), unit_rows(problem, spec));
        let matrix = matrix(client, problem, spec, k, unit_rows);
        let (block_rows, tile, at_once) = match &matrix {
            Some(plan) => {
                let cubes = MATRIX_CUBES.map(|cubes| (cubes * WARPS * 32 / plan.threads()).max(1));
                (plan.rows(), plan.tile, cubes)
            }
            None => (BLOCK, BLOCK, PLAIN_CUBES),
        };
        let unit_blocks = unit_rows.div_ceil(block_rows);
        let blocks = units * unit_blocks as usize;
        if blocks > 65_535 || problem.kv_heads > 65_535 {
            return Err(unsupported("more than 65535 heads, or blocks of query rows"));
        }
        let multiprocessors = client.properties().hardware.num_streaming_multiprocessors;
        let multiprocessors = multiprocessors.unwrap_or(MULTIPROCESSORS);
        let parts = |at_once: u32, tokens: usize| {
            let most = (multiprocessors * at_once) as usize / (blocks * problem.kv_heads);
            most.min(tokens.div_ceil(tile as usize)).max(1) as u32
        };
        let parts = [parts(at_once[0], problem.tokens), parts(at_once[1], problem.prefix())];
        Ok(Self { matrix, units: units as u32, unit_blocks, block_rows, parts })
    }
}

/// Whether the kernels take keys where they are: those of matrix units do.
pub(crate) fn takes_rows<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &WindowProblem,
    spec: &WindowSpec,
    k: Keys<'_>,
) -> bool {
    matrix(client, problem, spec, k, unit_rows(problem, spec)).is_some()
}

/// Query rows of what is smoothed as one.
fn unit_rows(problem: &WindowProblem, spec: &WindowSpec) -> u32 {
    (problem.group * problem.window / units(problem, spec)) as u32
}

/// What is smoothed as one, of a key head.
fn units(problem: &WindowProblem, spec: &WindowSpec) -> usize {
    if matches!(spec.pool, Pool::Max(_)) { problem.group } else { 1 }
}

/// The plan for matrix units, where the device has them and the problem fits them.
fn matrix<R: Runtime>(
    client: &ComputeClient<R>,
    problem: &WindowProblem,
    spec: &WindowSpec,
    k: Keys<'_>,
    unit_rows: u32,
) -> Option<Matrix> {
    let features = &client.properties().features;
    // Masks are below every logit only where the scale is positive.
    let fits = spec.scale > 0.0
        && problem.head_dim > 0
        && problem.head_dim.is_multiple_of(16)
        && problem.head_dim <= 256;
    if !has_matrix_units(client, k.data.dtype) || !fits {
        return None;
    }
    // Queries of a thread: 2 registers for each 16 channels of 8 rows.
    let octets = if problem.head_dim <= 128 { 4 } else { 2 };
    let row_warps = unit_rows.min(MATRIX_ROWS).div_ceil(octets * 8);
    let token_warps = match WARPS / row_warps {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    };
    let tile = TILE.max(token_warps * 16);
    let blocks = (tile / (token_warps * 16)).min(2);
    let dim = problem.head_dim as u32;
    let (copies, paged) = (features.copy_async, k.rows.is_some());
    let plan = Matrix { dim, tile, octets, row_warps, token_warps, blocks, copies, paged };
    (plan.shared_bytes() as usize <= client.properties().hardware.max_shared_memory_size).then_some(plan)
}

pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    engine: &'static str,
    problem: &WindowProblem,
    spec: &WindowSpec,
    q: &CubeTensor,
    k: Keys<'_>,
    out: &CubeTensor,
) -> Result<(), CoreError> {
    let blueprint = Blueprint::new(client, engine, problem, spec, k)?;
    let blocks = blueprint.units * blueprint.unit_blocks;
    let parts = blueprint.parts[0] * blueprint.matrix.map_or(1, |plan| plan.token_warps);
    let logs_len = problem.kv_heads * (blocks * parts * blueprint.block_rows) as usize;
    let logs = client.empty(logs_len * size_of::<f32>());
    let mean = 1.0 / (problem.group * problem.window) as f32;
    if blocks == 1 && spec.pool.size() == 1 {
        passes(client, &blueprint, problem, spec.scale, (q, k), (&logs, logs_len), (&out.handle, mean));
        return Ok(());
    }
    let weights_len = problem.kv_heads * blocks as usize * problem.prefix();
    let weights = client.empty(weights_len * size_of::<f32>());
    passes(client, &blueprint, problem, spec.scale, (q, k), (&logs, logs_len), (&weights, mean));
    let (count, dim) = flat(out.len());
    let largest = matches!(spec.pool, Pool::Max(_));
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: one thread a score; places outside the prompt are left out.
    unsafe {
        window::smooth_scores::launch_unchecked::<R>(
            client,
            count,
            dim,
            array(&weights, weights_len),
            array(&out.handle, out.len()),
            out.len() as u32,
            problem.prefix() as u32,
            blueprint.units,
            blueprint.unit_blocks,
            spec.pool.size() as u32,
            if largest { 1.0 } else { 1.0 / spec.pool.size() as f32 },
            largest,
        );
    }
    Ok(())
}

/// Both passes over the keys. Weights are multiplied by `factor`.
fn passes<R: Runtime>(
    client: &ComputeClient<R>,
    blueprint: &Blueprint,
    problem: &WindowProblem,
    scale: f32,
    (q, k): (&CubeTensor, Keys<'_>),
    (logs, logs_len): (&Handle, usize),
    (weights, factor): (&Handle, f32),
) {
    let blocks = blueprint.units * blueprint.unit_blocks;
    let extents = || {
        ExtentsLaunch::new(
            problem.tokens as u32,
            problem.window as u32,
            (problem.group * problem.window) as u32,
            (problem.group * problem.window) as u32 / blueprint.units,
            blueprint.unit_blocks,
        )
    };
    let counts = blueprint.parts.map(|parts| CubeCount::Static(parts, blocks, problem.kv_heads as u32));
    let [first, second] = counts;
    let scale = (f64::from(scale) * std::f64::consts::LOG2_E) as f32;
    let logs = || array(logs, logs_len);
    let weights = array(weights, problem.kv_heads * blocks as usize * problem.prefix());
    let dim = problem.head_dim;
    let Keys { data: k, rows } = k;
    // Nobody looks at rows that are not told.
    let rows_of_keys = || rows.map_or_else(logs, |rows| array(rows.handle(), rows.len()));
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: rows past a block's and tokens past the prompt are replaced before they are read, and left out where results are written;
    // logarithms and weights have a place for each block and part of the launch.
    unsafe {
        match blueprint.matrix {
            Some(plan) => {
                let parts = blueprint.parts[0] * plan.token_warps;
                let threads = CubeDim::new_1d(plan.threads());
                let arrays = || (array(&q.handle, q.len() / 2), array(&k.handle, k.len() / 8));
                macro_rules! launch {
                    ($F:ty) => {{
                        let (on_q, on_k) = arrays();
                        window::matrix_log_sums::launch_unchecked::<$F, R>(
                            client,
                            first,
                            threads,
                            8,
                            2,
                            on_q,
                            on_k,
                            rows_of_keys(),
                            logs(),
                            extents(),
                            scale,
                            plan,
                        );
                        let (on_q, on_k) = arrays();
                        window::matrix_weights::launch_unchecked::<$F, R>(
                            client,
                            second,
                            threads,
                            8,
                            2,
                            on_q,
                            on_k,
                            rows_of_keys(),
                            logs(),
                            weights,
                            extents(),
                            parts,
                            scale,
                            factor,
                            plan,
                        );
                    }};
                }
                if k.dtype == DType::F16 {
                    launch!(half::f16);
                } else {
                    launch!(half::bf16);
                }
            }
            None => {
                let threads = CubeDim::new_1d(THREADS);
                let bytes = k.dtype.bytes();
                let width = vector_size(client, bytes, &[dim, 16]);
                let arrays = || (array(&q.handle, q.len() / width), array(&k.handle, k.len() / width));
                with_storage!(k.dtype, F => {
                    let (on_q, on_k) = arrays();
                    window::plain_log_sums::launch_unchecked::<F, R>(
                        client, first, threads, width, on_q, on_k, logs(), extents(), dim as u32, scale,
                    );
                    let (on_q, on_k) = arrays();
                    window::plain_weights::launch_unchecked::<F, R>(
                        client, second, threads, width, on_q, on_k, logs(), weights, extents(),
                        blueprint.parts[0], dim as u32, scale, factor,
                    );
                });
            }
        }
    }
}
