//! Token operations on the device.

use std::sync::Arc;

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::{
    AttendOptions, BlockTables, ChosenTokens, CodeFrames, CodeSpec, CoreError, DType, DecodeProblem,
    LeafProblem, MeanRotation, NewQueries, ObservedLayer, ObservedShapes, PageChoice, PageLists, PageProblem,
    PagedKv, Pool, PoolRows, Rotation, RotationExtents, RowLists, RowProblem, ScoreLeaf, ScoreOp, Shape,
    Side, SimilarRows, StandIns, TokenEngine, TokenGrid, TokenLayout, TokenShape, TopKProblem, Traffic,
    WindowProblem, WindowSpec, check_entries, check_sums, checks,
};

use super::launch::uploaded;
use super::{Cube, CubeAttention, CubeCodePages, CubeTensor};
use crate::ops::{
    self,
    decode::{Asked, Stored},
    leaves::LeafInputs,
    window::Keys,
};

/// Row, page or token numbers on the device.
#[derive(Clone, Debug)]
pub struct CubeIndices {
    pub(crate) handle: Handle,
    pub(crate) shape: Shape,
    /// One more than the largest.
    pub(crate) bound: usize,
}

impl CubeIndices {
    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The device memory, `u32`.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A rotation on the device: frequencies in turns per position as 64-bit fixed point, axes and deltas.
#[derive(Clone, Debug)]
pub struct CubeRotation {
    pub(crate) extents: RotationExtents,
    /// `u32` `[pairs, 3]`: high and low word of the frequency, axis.
    pub(crate) pairs: Handle,
    /// `i32` `[axes, entries]`, as `u32`.
    pub(crate) deltas: Handle,
    pub(crate) scale: f32,
    /// Which upload it is of.
    identity: Arc<()>,
}

impl CubeRotation {
    /// True for clones of one upload.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }

    pub(super) fn new<R: Runtime>(
        client: &ComputeClient<R>,
        rotation: &Rotation<'_>,
    ) -> Result<Self, CoreError> {
        let extents = rotation.extents()?;
        let pairs: Vec<u32> = (rotation.frequencies.iter().enumerate())
            .flat_map(|(pair, &frequency)| {
                let (high, low) = ops::rotate::fixed_point_turns(frequency);
                [high, low, rotation.axes.get(pair).copied().unwrap_or(0).into()]
            })
            .collect();
        let deltas: Vec<u32> =
            rotation.deltas.iter().flat_map(|axis| axis.iter().map(|d| d.cast_unsigned())).collect();
        Ok(Self {
            extents,
            pairs: uploaded(client, &pairs).0,
            deltas: uploaded(client, &deltas).0,
            scale: rotation.scale,
            identity: Arc::default(),
        })
    }
}

/// Lists of pages on the device.
#[derive(Clone, Debug)]
pub struct CubeTables {
    pub(crate) page_size: usize,
    pub(crate) groups: usize,
    pub(crate) sequences: usize,
    pub(crate) longest: usize,
    pub(crate) page_bound: usize,
    /// Where each list begins, and how many tokens it has: here too, for batches whose lists are those of their tokens.
    pub(crate) lists: (Vec<u32>, Vec<u32>),
    pub(crate) indptr: Handle,
    pub(crate) indptr_len: usize,
    pub(crate) pages: Handle,
    pub(crate) pages_len: usize,
    pub(crate) lengths: Handle,
    pub(crate) lengths_len: usize,
}

/// A page table on the device.
#[derive(Clone, Debug)]
pub struct CubePageTable {
    handle: Handle,
    entries: usize,
    /// One more than the largest page that was ever written.
    bound: usize,
}

impl CubePageTable {
    /// As a pool of rows of one word.
    fn words(&self) -> CubeTensor {
        words(&self.handle, self.entries)
    }
}

/// Words as a tensor: copies do not look at what they copy.
fn words(handle: &Handle, len: usize) -> CubeTensor {
    CubeTensor { handle: handle.clone(), shape: [len, 1].as_slice().into(), dtype: DType::F32 }
}

impl<R: Runtime> Cube<R> {
    /// Numbers on the device, which nobody writes to.
    fn table(&self, numbers: &[u32]) -> Handle {
        self.uploads.table(&self.client, numbers)
    }

    pub(crate) fn tensor(&self, shape: &[usize], dtype: DType) -> Result<CubeTensor, CoreError> {
        let len = checks::index_space("tensor elements", shape, u32::MAX as usize)?;
        let handle = self.client.empty(len.max(1) * dtype.bytes());
        Ok(CubeTensor { handle, shape: shape.into(), dtype })
    }

    fn row_problem(
        &self,
        x: &CubeTensor,
        layout: TokenLayout,
        indices: &CubeIndices,
    ) -> Result<(RowProblem, CubeTensor), CoreError> {
        let problem = RowProblem::new(&x.shape, layout, &indices.shape)?;
        let tokens = problem.from.tokens;
        if problem.kept > 0 && indices.bound > tokens {
            return Err(CoreError::Count { what: "tokens", expected: indices.bound, got: tokens });
        }
        self.require(x.dtype)?;
        Ok((problem, self.tensor(&problem.to().dims(), x.dtype)?))
    }

    fn page_problem(
        &self,
        pool: &CubeTensor,
        indices: &CubeIndices,
    ) -> Result<(PageProblem, CubeTensor), CoreError> {
        let problem = PageProblem::new(&pool.shape, &indices.shape)?;
        if problem.kept > 0 && indices.bound > problem.pages {
            return Err(CoreError::Count { what: "pages", expected: indices.bound, got: problem.pages });
        }
        self.require(pool.dtype)?;
        let mut shape = pool.shape.clone();
        shape[0] = problem.kept;
        Ok((problem, self.tensor(&shape, pool.dtype)?))
    }

    /// Lists whose pages are `pages`: memory, entries, and one more than the largest page.
    pub(crate) fn lists(
        &self,
        (pages, pages_len, page_bound): (Handle, usize, usize),
        lists: &PageLists<'_>,
    ) -> CubeTables {
        CubeTables {
            page_size: lists.page_size,
            groups: lists.groups,
            sequences: lists.lengths.len() / lists.groups,
            longest: lists.lengths.iter().copied().max().unwrap_or(0) as usize,
            page_bound,
            lists: (lists.starts.to_vec(), lists.lengths.to_vec()),
            indptr: self.table(lists.starts),
            indptr_len: lists.starts.len().max(1),
            pages,
            pages_len,
            lengths: self.table(lists.lengths),
            lengths_len: lists.lengths.len().max(1),
        }
    }

    fn written_rows(
        &self,
        pool: &CubeTensor,
        rows: &CubeIndices,
        x: &CubeTensor,
    ) -> Result<PoolRows, CoreError> {
        let problem = self.pool_rows(pool, rows)?;
        problem.holds(&x.shape)?;
        if x.dtype != pool.dtype {
            return Err(CoreError::DTypeMismatch { what: "x", expected: pool.dtype, got: x.dtype });
        }
        Ok(problem)
    }

    fn pool_rows(&self, pool: &CubeTensor, rows: &CubeIndices) -> Result<PoolRows, CoreError> {
        let problem = PoolRows::new(&pool.shape, &rows.shape)?;
        if problem.count > 0 && rows.bound > problem.pool_rows {
            return Err(CoreError::Count { what: "rows", expected: rows.bound, got: problem.pool_rows });
        }
        self.require(pool.dtype)?;
        Ok(problem)
    }

    fn gathered(&self, tensors: &[&CubeTensor]) {
        let gathered = tensors.iter().map(|t| (t.len() * t.dtype.bytes()) as u64).sum();
        self.traffic.add(Traffic { gathered, ..Traffic::default() });
    }

    pub(super) fn decode_problem(
        &self,
        q: &CubeTensor,
        k: &[usize],
        v: &[usize],
        tables: &CubeTables,
    ) -> Result<DecodeProblem, CoreError> {
        let extents = (tables.page_size, tables.groups, tables.sequences);
        DecodeProblem::new(&q.shape, k, v, extents, tables.page_bound)
    }

    /// Output and log-sum-exp of a problem whose arguments fit each other.
    pub(super) fn decode_stored(
        &self,
        asked: &Asked<'_>,
        stored: &Stored<'_>,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let &Asked { problem, q, .. } = asked;
        self.require(q.dtype)?;
        let out = self.tensor(&[problem.sequences, problem.query_heads(), problem.head_dim_v], q.dtype)?;
        let lse = self.tensor(&[problem.sequences, problem.query_heads()], DType::F32)?;
        if out.len() > 0 {
            ops::decode::launch(&self.client, self.name, asked, stored, (&out, &lse))?;
        }
        Ok((out, lse))
    }
}

impl<R: Runtime> Cube<R> {
    /// Scores of a problem whose arguments fit each other.
    fn window(
        &self,
        problem: &WindowProblem,
        spec: &WindowSpec,
        q: &CubeTensor,
        k: Keys<'_>,
    ) -> Result<CubeTensor, CoreError> {
        let out = self.tensor(&[problem.kv_heads, problem.prefix()], DType::F32)?;
        if out.len() > 0 {
            ops::window::launch(&self.client, self.name, problem, spec, q, k, &out)?;
        }
        Ok(out)
    }

    /// [`ScoreLeaf::WindowAttention`] of keys where they are; none where only keys that lie together will do.
    fn window_of_rows(
        &self,
        layer: &ObservedLayer<'_, Self>,
        problem: &LeafProblem,
        smoothing: Pool,
    ) -> Result<Option<CubeTensor>, CoreError> {
        let q = layer.queries.ok_or(CoreError::Count { what: "queries", expected: 1, got: 0 })?;
        self.pool_rows(layer.k, layer.rows)?;
        if q.dtype != layer.k.dtype {
            return Err(CoreError::DTypeMismatch { what: "q", expected: layer.k.dtype, got: q.dtype });
        }
        let spec = WindowSpec { scale: layer.scale, pool: smoothing };
        let keys = [problem.kv_heads, problem.tokens, problem.dim];
        let problem = WindowProblem::new(&q.shape, &keys, &spec)?;
        let keys = Keys { data: layer.k, rows: Some(layer.rows) };
        let takes_rows = ops::window::takes_rows(&self.client, &problem, &spec, keys);
        takes_rows.then(|| self.window(&problem, &spec, q, keys)).transpose()
    }
}

impl<R: Runtime> TokenEngine for Cube<R> {
    type Indices = CubeIndices;
    type Tables = CubeTables;
    type PageTable = CubePageTable;
    type Attention = CubeAttention;
    type CodePages = CubeCodePages;

    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<CubeIndices, CoreError> {
        let expected = shape.iter().product();
        if expected != indices.len() {
            return Err(CoreError::TensorLength { shape: shape.into(), expected, got: indices.len() });
        }
        let bound = indices.iter().max().map_or(0, |&i| i as usize + 1);
        Ok(CubeIndices { handle: self.table(indices), shape: shape.into(), bound })
    }

    fn read_indices(&self, indices: &CubeIndices) -> Result<Vec<u32>, CoreError> {
        let device = |message| CoreError::Device { engine: self.name, message };
        let bytes =
            self.client.read_one(indices.handle.clone()).map_err(|error| device(format!("{error:?}")))?;
        let bytes = bytes.get(..indices.len() * size_of::<u32>());
        let bytes = bytes.ok_or_else(|| device("fewer indices came back than there are".into()))?;
        self.traffic.add(Traffic { read_back: bytes.len() as u64, ..Traffic::default() });
        Ok(u32::from_bytes(bytes).to_vec())
    }

    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<CubeTables, CoreError> {
        tables.check()?;
        let (pages, pages_len) = uploaded(&self.client, tables.pages);
        let bound = tables.page_bound();
        let starts = &tables.indptr[..tables.lengths.len()];
        let lists =
            PageLists { page_size: tables.page_size, groups: tables.groups, starts, lengths: tables.lengths };
        Ok(self.lists((pages, pages_len, bound), &lists))
    }

    fn rotate(
        &self,
        x: &mut CubeTensor,
        layout: TokenLayout,
        rotation: &CubeRotation,
    ) -> Result<(), CoreError> {
        self.require(x.dtype)?;
        let shape = TokenShape::of("x", &x.shape, layout)?;
        rotation.extents.fit(&shape)?;
        ops::rotate::launch(&self.client, &shape, rotation, x, None);
        Ok(())
    }

    fn rotated(
        &self,
        x: &CubeTensor,
        layout: TokenLayout,
        rotation: &CubeRotation,
    ) -> Result<CubeTensor, CoreError> {
        self.require(x.dtype)?;
        let shape = TokenShape::of("x", &x.shape, layout)?;
        rotation.extents.fit(&shape)?;
        let out = self.tensor(&x.shape, x.dtype)?;
        ops::rotate::launch(&self.client, &shape, rotation, x, Some(&out));
        Ok(out)
    }

    fn window_scores(
        &self,
        q: &CubeTensor,
        k: &CubeTensor,
        spec: &WindowSpec,
    ) -> Result<CubeTensor, CoreError> {
        let problem = WindowProblem::new(&q.shape, &k.shape, spec)?;
        if q.dtype != k.dtype {
            return Err(CoreError::DTypeMismatch { what: "q", expected: k.dtype, got: q.dtype });
        }
        self.require(k.dtype)?;
        self.window(&problem, spec, q, Keys { data: k, rows: None })
    }

    fn top_k(&self, scores: &CubeTensor, k: usize) -> Result<CubeIndices, CoreError> {
        let problem = TopKProblem::new(&scores.shape, scores.dtype, k)?;
        let handle = self.client.empty((problem.rows * k).max(1) * size_of::<u32>());
        let shape: Shape = [problem.rows, k].as_slice().into();
        let out = CubeIndices { handle, shape, bound: problem.columns };
        if out.len() > 0 {
            ops::top_k::launch(&self.client, self.name, &problem, scores, &out)?;
        }
        Ok(out)
    }

    fn gather_rows(
        &self,
        x: &CubeTensor,
        layout: TokenLayout,
        indices: &CubeIndices,
    ) -> Result<CubeTensor, CoreError> {
        let (problem, out) = self.row_problem(x, layout, indices)?;
        if out.len() > 0 {
            ops::gather::launch_rows(&self.client, &problem, (x, &out), None, indices);
        }
        self.gathered(&[&out]);
        Ok(out)
    }

    fn gather_rows_of_two(
        &self,
        (x, y): (&CubeTensor, &CubeTensor),
        layout: TokenLayout,
        indices: &CubeIndices,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let ((problem, x_out), (_, y_out)) =
            (self.row_problem(x, layout, indices)?, self.row_problem(y, layout, indices)?);
        if x.shape != y.shape || x.dtype != y.dtype {
            return Ok((self.gather_rows(x, layout, indices)?, self.gather_rows(y, layout, indices)?));
        }
        if x_out.len() > 0 {
            ops::gather::launch_rows(&self.client, &problem, (x, &x_out), Some((y, &y_out)), indices);
        }
        self.gathered(&[&x_out, &y_out]);
        Ok((x_out, y_out))
    }

    fn gather_pages(&self, pool: &CubeTensor, indices: &CubeIndices) -> Result<CubeTensor, CoreError> {
        let (problem, out) = self.page_problem(pool, indices)?;
        if out.len() > 0 {
            ops::gather::launch_pages(&self.client, &problem, (pool, &out), None, indices);
        }
        self.gathered(&[&out]);
        Ok(out)
    }

    fn gather_pages_of_two(
        &self,
        (x, y): (&CubeTensor, &CubeTensor),
        indices: &CubeIndices,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let ((problem, x_out), (_, y_out)) = (self.page_problem(x, indices)?, self.page_problem(y, indices)?);
        if x.shape != y.shape || x.dtype != y.dtype {
            return Ok((self.gather_pages(x, indices)?, self.gather_pages(y, indices)?));
        }
        if x_out.len() > 0 {
            ops::gather::launch_pages(&self.client, &problem, (x, &x_out), Some((y, &y_out)), indices);
        }
        self.gathered(&[&x_out, &y_out]);
        Ok((x_out, y_out))
    }

    fn decode(
        &self,
        q: &CubeTensor,
        k: &CubeTensor,
        v: &CubeTensor,
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let problem = self.decode_problem(q, &k.shape, &v.shape, tables)?;
        DecodeProblem::same_dtype(q.dtype, k.dtype, v.dtype)?;
        let asked = Asked { problem: &problem, tables, q, scale, shaping: None };
        self.decode_stored(&asked, &Stored::Numbers { k, v })
    }

    fn read_rows(&self, pool: &CubeTensor, rows: &CubeIndices) -> Result<CubeTensor, CoreError> {
        let problem = self.pool_rows(pool, rows)?;
        let out = self.tensor(&problem.shape, pool.dtype)?;
        if out.len() > 0 {
            ops::gather::launch_pages(&self.client, &problem.pages(), (pool, &out), None, rows);
        }
        self.gathered(&[&out]);
        Ok(out)
    }

    fn write_rows(&self, pool: &mut CubeTensor, rows: &CubeIndices, x: &CubeTensor) -> Result<(), CoreError> {
        let problem = self.written_rows(pool, rows, x)?;
        if x.len() > 0 {
            ops::gather::launch_scatter(&self.client, &problem, (x, pool), None, rows);
        }
        self.traffic.add(Traffic { written: (x.len() * x.dtype.bytes()) as u64, ..Traffic::default() });
        Ok(())
    }

    fn write_rows_together(
        &self,
        writes: &mut [(&mut CubeTensor, &CubeTensor)],
        rows: &CubeIndices,
    ) -> Result<(), CoreError> {
        let problems =
            writes.iter().map(|(pool, x)| self.written_rows(pool, rows, x)).collect::<Result<Vec<_>, _>>()?;
        let mut number = 0;
        while let Some((pool, x)) = writes.get(number) {
            // Two of the same rows are one launch.
            let twin = writes
                .get(number + 1)
                .filter(|(_, y)| problems[number] == problems[number + 1] && y.dtype == x.dtype);
            let other = twin.map(|(pool, y)| (*y, &**pool));
            if x.len() > 0 {
                ops::gather::launch_scatter(&self.client, &problems[number], (x, pool), other, rows);
            }
            number += 1 + usize::from(other.is_some());
        }
        let written = writes.iter().map(|(_, x)| (x.len() * x.dtype.bytes()) as u64).sum();
        self.traffic.add(Traffic { written, ..Traffic::default() });
        Ok(())
    }

    fn weighted_rows(
        &self,
        pool: &CubeTensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<CubeTensor, CoreError> {
        self.weighted_means(pool, lists, dtype)
    }

    fn joins_similar(&self) -> bool {
        true
    }

    fn join_similar(&self, rows: &SimilarRows<'_, Self>) -> Result<CubeTensor, CoreError> {
        self.join_rows(rows)
    }

    fn attend_stand_ins(
        &self,
        q: &CubeTensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: std::ops::Range<usize>,
        scale: f32,
        (out, lse): (&mut CubeTensor, &mut CubeTensor),
    ) -> Result<(), CoreError> {
        self.merge_stand_ins(q, stand_ins, tokens, scale, (out, lse))
    }

    fn write_page_bounds(
        &self,
        bounds: &mut CubeTensor,
        keys: &CubeTensor,
        which: &CubeIndices,
    ) -> Result<(), CoreError> {
        self.write_bounds(bounds, keys, which)
    }

    fn chooses_pages(&self) -> bool {
        true
    }

    fn choose_pages(&self, choice: &PageChoice<'_, Self>) -> Result<CubeTables, CoreError> {
        self.chosen(choice)
    }

    fn add_attention(
        &self,
        sums: &mut CubeTensor,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &CubeTables,
        attention: &CubeAttention,
        lse: &CubeTensor,
    ) -> Result<(), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        check_sums(&problem, (&sums.shape, sums.dtype))?;
        let shaping = attention.shaping(kv.positions.zip(queries.positions));
        ops::sums::launch(
            &self.client,
            self.name,
            &problem,
            (queries, tables),
            (attention.options.scale, shaping.as_ref()),
            kv.k,
            lse,
            sums,
        )
    }

    fn create_page_table(&self, entries: usize) -> Result<CubePageTable, CoreError> {
        let table = self.tensor(&[entries, 1], DType::F32)?;
        Ok(CubePageTable { handle: table.handle, entries, bound: 0 })
    }

    fn grow_page_table(&self, table: &mut CubePageTable, entries: usize) -> Result<(), CoreError> {
        if entries <= table.entries {
            return Ok(());
        }
        let grown = self.create_page_table(entries)?;
        // Entries that point nowhere copy the first one, which is overwritten before it is read.
        let from: Vec<u32> =
            (0..entries as u32).map(|i| if (i as usize) < table.entries { i } else { 0 }).collect();
        if table.entries > 0 {
            let rows = self.upload_indices(&[entries], &from)?;
            let problem = PageProblem { pages: table.entries, page_len: 1, kept: entries };
            ops::gather::launch_pages(&self.client, &problem, (&table.words(), &grown.words()), None, &rows);
        }
        *table = CubePageTable { bound: table.bound, ..grown };
        Ok(())
    }

    fn write_page_table(
        &self,
        table: &mut CubePageTable,
        at: &[u32],
        pages: &[u32],
    ) -> Result<(), CoreError> {
        check_entries(table.entries, at, pages)?;
        if at.is_empty() {
            return Ok(());
        }
        let rows = self.upload_indices(&[at.len()], at)?;
        let (handle, len) = uploaded(&self.client, pages);
        let problem = PoolRows::new(&[table.entries, 1], &[len])?;
        let (x, pool) = (words(&handle, len), table.words());
        ops::gather::launch_scatter(&self.client, &problem, (&x, &pool), None, &rows);
        table.bound = pages.iter().fold(table.bound, |bound, &page| bound.max(page as usize + 1));
        Ok(())
    }

    fn page_lists(&self, table: &CubePageTable, lists: &PageLists<'_>) -> Result<CubeTables, CoreError> {
        lists.check(table.entries)?;
        Ok(self.lists((table.handle.clone(), table.entries.max(1), table.bound), lists))
    }

    fn upload_attention(&self, options: &AttendOptions) -> Result<CubeAttention, CoreError> {
        CubeAttention::new(&self.client, options)
    }

    fn attend_paged(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &CubeTables,
        attention: &CubeAttention,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        let (q, k, v) = (queries.q, kv.k, kv.v);
        let shaping = attention.shaping(kv.positions.zip(queries.positions));
        let asked = Asked { problem: &problem, tables, q, scale: attention.options.scale, shaping };
        self.attend_batch(&asked, queries, (k, v))
    }

    fn list_rows(&self, tables: &CubeTables) -> Result<CubeIndices, CoreError> {
        let tokens = checks::equally_long(&tables.lists.1)?;
        let rows = self.rows_of_lists(tables, tokens)?;
        let bound = tables.page_bound * tables.page_size;
        Ok(CubeIndices { handle: rows.handle, shape: rows.shape, bound })
    }

    fn chosen_rows(
        &self,
        tables: &CubeTables,
        tokens: &ChosenTokens<'_, CubeIndices>,
    ) -> Result<CubeIndices, CoreError> {
        let each = checks::equally_long(&tables.lists.1)?;
        let CubeIndices { shape, bound, .. } = tokens.chosen;
        let count = tokens.count((tables.lists.1.len(), each), shape, *bound)?;
        let rows = self.rows_of_chosen(tables, (each, count), tokens)?;
        let bound = tables.page_bound * tables.page_size;
        Ok(CubeIndices { handle: rows.handle, shape: rows.shape, bound })
    }

    fn words(&self, indices: &CubeIndices) -> Result<CubeTensor, CoreError> {
        Ok(CubeTensor { handle: indices.handle.clone(), shape: indices.shape.clone(), dtype: DType::F32 })
    }

    fn indices(&self, words: &CubeTensor, bound: usize) -> Result<CubeIndices, CoreError> {
        if words.dtype != DType::F32 {
            return Err(CoreError::DTypeMismatch { what: "words", expected: DType::F32, got: words.dtype });
        }
        Ok(CubeIndices { handle: words.handle.clone(), shape: words.shape.clone(), bound })
    }

    fn observes(&self, leaf: &ScoreLeaf) -> bool {
        ops::leaves::has_leaf(leaf)
    }

    fn observe(&self, leaf: &ScoreLeaf, layer: &ObservedLayer<'_, Self>) -> Result<CubeTensor, CoreError> {
        let shapes = ObservedShapes {
            rows: &layer.rows.shape,
            k: layer.k.shape(),
            v: layer.v.shape(),
            sums: layer.sums.map(|s| (s.shape(), s.dtype)),
            queries: layer.queries.map(CubeTensor::shape),
            probe_keys: layer.probe_keys.map(CubeTensor::shape),
            rotation: layer.rotation.map(MeanRotation::dim),
            projection: layer.projection.map(|p| (p.shape(), p.dtype)),
            raw_keys: layer.raw_keys.map(CubeTensor::shape),
            grid: layer.grid.map(TokenGrid::tokens),
        };
        let problem = LeafProblem::new(leaf, &shapes)?;
        if let ScoreLeaf::WindowAttention { smoothing, .. } = *leaf
            && let Some(scores) = self.window_of_rows(layer, &problem, smoothing)?
        {
            return Ok(scores);
        }
        let pool = match leaf {
            ScoreLeaf::AttentionSums => {
                layer.sums.ok_or(CoreError::Count { what: "sums of attention", expected: 1, got: 0 })?
            }
            leaf if leaf.is_of_values() => layer.v,
            _ => layer.k,
        };
        let &ObservedLayer { queries, probe_keys, rotation, projection, raw_keys, grid, scale, .. } = layer;
        let inputs = LeafInputs { queries, probe_keys, rotation, projection, raw_keys, grid, scale };
        // Keys before the rotation are there already.
        let rows = match raw_keys.filter(|_| leaf.is_of_frames()) {
            Some(keys) => keys.clone(),
            None => self.read_rows(pool, layer.rows)?,
        };
        self.leaf(leaf, &problem, &rows, &inputs)
    }

    fn score_op(&self, op: &ScoreOp, of: &[&CubeTensor]) -> Result<CubeTensor, CoreError> {
        self.score_arithmetic(op, of)
    }

    fn create_codes(&self, spec: &CodeSpec) -> Result<CubeCodePages, CoreError> {
        self.new_code_pages(spec)
    }

    fn gather_codes(&self, codes: &CubeCodePages, pages: &[u32]) -> Result<CubeCodePages, CoreError> {
        self.gathered_codes(codes, pages)
    }

    fn code_frames(
        &self,
        codes: &CubeCodePages,
        side: Side,
        x: &CubeTensor,
    ) -> Result<Option<CubeTensor>, CoreError> {
        self.frames_of_codes(codes, side, x)
    }

    fn write_codes(
        &self,
        codes: &mut CubeCodePages,
        pages: &[u32],
        rows: [&CubeTensor; 2],
        frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError> {
        self.write_code_pages(codes, pages, rows, frames)
    }

    fn copy_code_rows(&self, codes: &mut CubeCodePages, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        self.copy_rows_of_codes(codes, from, to)
    }

    fn restore_codes(
        &self,
        codes: &CubeCodePages,
        pages: &[u32],
        frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[CubeTensor; 2], CoreError> {
        self.restored_codes(codes, pages, frames, dtype)
    }

    fn attend_codes(
        &self,
        q: &CubeTensor,
        codes: &CubeCodePages,
        frames: &CodeFrames<'_, Self>,
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        self.attend_to_codes(q, codes, frames, tables, scale)
    }

    fn merge_attention(
        &self,
        one: (&CubeTensor, &CubeTensor),
        other: (&CubeTensor, &CubeTensor),
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        self.merged_attention(one, other)
    }
}
