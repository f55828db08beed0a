//! Block attention: on matrix units where the device has CUDA's 16 x 8 x 16 product and asynchronous copies, else a query row a thread.

mod schedule;

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::DType;

use crate::cube::launch::{array, has_matrix_units, spread, uploaded, with_storage};
use crate::kernels::{attend, decode};

pub(crate) use schedule::QueryList;
use schedule::{CubeSize, Schedule};

/// A buffer and its elements.
pub(crate) type Buffer<'a> = (&'a Handle, usize);

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// Of keys and values.
    pub dtype: DType,
    pub head_dims: (usize, usize),
    /// Query heads, and those of a key head.
    pub query_heads: usize,
    pub group: usize,
    pub page_size: usize,
    pub page_heads: usize,
    pub lists: &'a [QueryList],
    pub keys: Buffer<'a>,
    pub values: Buffer<'a>,
    pub key_pages: Buffer<'a>,
    pub value_pages: Buffer<'a>,
}

/// Queries and results.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Queries are scaled, and `f32`; so is the output.
    Prepared { q: Buffer<'a>, out: Buffer<'a> },
    /// Queries and output are of the type of the keys, and a log-sum-exp is wanted.
    Stored { q: Buffer<'a>, scale: f32, out: Buffer<'a>, lse: Buffer<'a> },
}

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Matrix,
    /// Keys of a tile.
    Rows {
        tile: usize,
    },
}

impl Kernel {
    /// The one for heads of this size, where there is one.
    pub(crate) fn of<R: Runtime>(
        client: &ComputeClient<R>,
        dtype: DType,
        (dk, dv): (usize, usize),
    ) -> Option<Self> {
        let properties = client.properties();
        let shared = properties.hardware.max_shared_memory_size;
        let fits = |dim: usize| dim.is_multiple_of(16) && (16..=256).contains(&dim);
        let matrix = has_matrix_units(client, dtype) && properties.features.copy_async;
        if matrix && fits(dk) && fits(dv) && shared_bytes(dk, dv, Warps::SMALL.rows()) <= shared {
            return Some(Self::Matrix);
        }
        // 32 KiB is what every device has.
        let most = (shared / size_of::<f32>()).min(8192);
        let tile = [32usize, 16, 8, 4, 2, 1].into_iter().find(|t| t * (dk + dv) <= most);
        tile.map(|tile| Self::Rows { tile })
    }

    /// True when rows of a key head are enough for this kernel to do better than one for single tokens.
    pub(crate) fn suits(self, tokens: usize, group: usize) -> bool {
        match self {
            // A warp without rows only brings keys.
            Self::Matrix => tokens > 1,
            Self::Rows { .. } => tokens > 1 && tokens * group >= attend::ROWS as usize / 4,
        }
    }

    /// Sizes of a cube.
    fn cube<R: Runtime>(self, client: &ComputeClient<R>, attention: &Attention<'_>) -> (CubeSize, Warps) {
        let hardware = &client.properties().hardware;
        let multiprocessors = hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
        match self {
            Self::Matrix => {
                let (dk, dv) = attention.head_dims;
                let tokens = attention.lists.iter().map(|l| l.tokens).max().unwrap_or(0) as usize;
                // Registers have room for two blocks of rows up to 128 channels. Cubes of few rows are small, so that two of them run side by
                // side: they wait for memory.
                let widest = if dk.max(dv) <= 128 { Warps::WIDE } else { Warps::LARGE };
                let fits = |w: &Warps| shared_bytes(dk, dv, w.rows()) <= hardware.max_shared_memory_size;
                let enough = |w: &Warps| tokens * attention.group <= w.rows();
                let wanted = [Warps::SMALL, Warps::LARGE].into_iter().find(enough).unwrap_or(widest);
                let warps = [wanted, Warps::LARGE].into_iter().find(fits).unwrap_or(Warps::SMALL);
                let at_once = multiprocessors * (Warps::LARGE.warps / warps.warps) as usize;
                (CubeSize { rows: warps.rows(), tile: attend::TILE as usize, at_once }, warps)
            }
            Self::Rows { tile } => {
                let (rows, at_once) = (attend::ROWS as usize, 8 * multiprocessors);
                (CubeSize { rows, tile, at_once }, Warps::SMALL)
            }
        }
    }
}

/// Warps of a cube on matrix units, and blocks of 16 rows of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Warps {
    warps: u32,
    blocks: usize,
}

impl Warps {
    const SMALL: Self = Self { warps: 4, blocks: 1 };
    const LARGE: Self = Self { warps: 8, blocks: 1 };
    /// The fastest of four measured, where rows are many: 8 x 2, 4 x 2, 8 x 1, 4 x 1.
    const WIDE: Self = Self { warps: 8, blocks: 2 };

    fn rows(self) -> usize {
        self.warps as usize * 16 * self.blocks
    }
}

/// Shared memory of a cube of so many rows on matrix units.
fn shared_bytes(dk: usize, dv: usize, rows: usize) -> usize {
    let (dk, dv) = (dk as u32, dv as u32);
    let tiles = attend::STAGES * attend::TILE * (attend::key_step(dk) + attend::value_step(dv));
    // And the barrier.
    16 * (rows as u32 * attend::padded(dk) / 8 + tiles + 1) as usize
}

/// What queries and products are multiplied by, so that they become logits to base 2. Queries stay exact.
fn factors(scale: f32) -> (f32, f32) {
    // A logit that all keys share; and so small a factor could not tell what is masked.
    if scale.abs() < 1e-20 {
        return (0.0, 1.0);
    }
    (scale.signum(), scale.abs() * std::f32::consts::LOG2_E)
}

/// Attention of the rows of all lists.
pub(crate) fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    kernel: Kernel,
    attention: &Attention<'_>,
    rows: Rows<'_>,
) {
    if attention.lists.is_empty() {
        return;
    }
    let (size, warps) = kernel.cube(client, attention);
    let schedule = Schedule::new(attention.lists, attention.group, size);
    with_storage!(attention.dtype, F => match rows {
        Rows::Prepared { q, out } => {
            let factors = if kernel == Kernel::Matrix { (std::f32::consts::LOG2_E, 1.0) } else { (1.0, 1.0) };
            run::<f32, F, f32, R>(client, kernel, attention, &schedule, (size.rows, warps), factors, q, out, None);
        }
        Rows::Stored { q, scale, out, lse } => {
            let factors = if kernel == Kernel::Matrix { factors(scale) } else { (scale, 1.0) };
            run::<F, F, F, R>(client, kernel, attention, &schedule, (size.rows, warps), factors, q, out, Some(lse));
        }
    });
}

#[allow(clippy::too_many_arguments, reason = "a launch")]
fn run<Q, F, O, R>(
    client: &ComputeClient<R>,
    kernel: Kernel,
    attention: &Attention<'_>,
    schedule: &Schedule,
    (cube_rows, Warps { warps, blocks }): (usize, Warps),
    (query_factor, logit_factor): (f32, f32),
    (q, q_len): Buffer<'_>,
    (out, out_len): Buffer<'_>,
    lse: Option<Buffer<'_>>,
) where
    Q: Float + CubeElement,
    F: Float + CubeElement,
    O: Float + CubeElement,
    R: Runtime,
{
    let (dk, dv) = attention.head_dims;
    let part_rows = schedule.part_rows.max(1);
    let part_out = client.empty(part_rows * dv * size_of::<f32>());
    let part_lse = client.empty(part_rows * size_of::<f32>());
    let (items, items_len) = uploaded(client, &schedule.items);
    let (page_heads, page_size) = (attention.page_heads as u32, attention.page_size as u32);
    let (group, query_heads) = (attention.group as u32, attention.query_heads as u32);
    let whole = |(handle, len): Buffer<'_>, vector: usize| array::<R>(handle, len / vector);
    // Who wants no log-sum-exp gives no place for it, but the kernels name one.
    let nowhere = client.empty(size_of::<f32>());
    let lse_or = lse.unwrap_or((&nowhere, 1));
    let (x, y) = spread(schedule.len());
    let count = CubeCount::Static(x, y, 1);
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: items name rows of queries below `q_len` and keys of lists, whose pages lie in the pools (checked by the tables' bound); parts lie
    // below `part_rows`.
    unsafe {
        match kernel {
            Kernel::Matrix => attend::attend_matrix::launch_unchecked::<Q, F, O, R>(
                client,
                count,
                CubeDim::new_1d(warps * 32),
                2,
                4,
                8,
                array(q, q_len / 2),
                whole(attention.keys, 8),
                whole(attention.values, 8),
                whole(attention.key_pages, 1),
                whole(attention.value_pages, 1),
                array(&items, items_len),
                array(out, out_len / 2),
                whole(lse_or, 1),
                array(&part_out, part_rows * dv / 2),
                array(&part_lse, part_rows),
                schedule.len() as u32,
                query_factor,
                logit_factor,
                page_heads,
                group,
                query_heads,
                lse.is_some(),
                page_size,
                dk as u32,
                dv as u32,
                warps,
                blocks,
                attend::HELD,
                lse.is_some(),
            ),
            Kernel::Rows { tile } => attend::attend_rows::launch::<Q, F, O, R>(
                client,
                count,
                CubeDim::new_1d(attend::ROWS),
                array(q, q_len),
                whole(attention.keys, 1),
                whole(attention.values, 1),
                whole(attention.key_pages, 1),
                whole(attention.value_pages, 1),
                array(&items, items_len),
                array(out, out_len),
                whole(lse_or, 1),
                array(&part_out, part_rows * dv),
                array(&part_lse, part_rows),
                schedule.len() as u32,
                query_factor,
                page_size,
                page_heads,
                group,
                query_heads,
                dk as u32,
                dv as u32,
                tile as u32,
                lse.is_some(),
            ),
        }
    }
    if schedule.split.is_empty() {
        return;
    }
    let (split, split_len) = uploaded(client, &schedule.split);
    #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
    // SAFETY: the kernel stops at each task's rows.
    unsafe {
        attend::combine_blocks::launch_unchecked::<O, R>(
            client,
            CubeCount::Static(cube_rows as u32, schedule.split.len() as u32, 1),
            CubeDim::new_1d(decode::COMBINE_THREADS),
            array(&part_out, part_rows * dv),
            array(&part_lse, part_rows),
            array(&items, items_len),
            array(&split, split_len),
            array(out, out_len),
            whole(lse_or, 1),
            group,
            query_heads,
            dv as u32,
            decode::COMBINE_THREADS,
            lse.is_some(),
        );
    }
}
