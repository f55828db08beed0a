//! Operations on tokens that do nothing.

use tether_core::{
    AttendOptions, BlockTables, ChosenTokens, CodeFrames, CodeSpec, CoreError, DType, DecodeProblem,
    LeafProblem, MeanRotation, NewQueries, ObservedLayer, ObservedShapes, PageChoice, PageLists, PageProblem,
    PagedKv, PoolRows, RotationExtents, RowLists, RowProblem, ScoreLeaf, ScoreOp, Shape, Side,
    StandInProblem, StandIns, TokenEngine, TokenGrid, TokenLayout, TokenShape, TopKProblem, WindowProblem,
    WindowSpec, batch_problem, check_bounds, check_starts, check_sums, checks,
};

use super::{Null, NullTensor};

/// Numbers of rows, pages or tokens, of which only the shape is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NullIndices {
    shape: Shape,
    /// How far a row's numbers are apart.
    apart: usize,
}

/// Lists of pages, of which only the extents are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullTables {
    page_size: usize,
    groups: usize,
    sequences: usize,
    longest: usize,
}

/// Output and log-sum-exps of attention.
fn attended(problem: &DecodeProblem, dtype: DType) -> (NullTensor, NullTensor) {
    let shape = [problem.sequences, problem.query_heads(), problem.head_dim_v];
    (NullTensor::new(&shape, dtype), NullTensor::new(&shape[..2], DType::F32))
}

fn same_dtype(what: &'static str, expected: DType, got: DType) -> Result<(), CoreError> {
    if expected == got { Ok(()) } else { Err(CoreError::DTypeMismatch { what, expected, got }) }
}

impl TokenEngine for Null {
    type Indices = NullIndices;
    type Tables = NullTables;
    /// Entries.
    type PageTable = usize;
    type Attention = AttendOptions;
    type CodePages = CodeSpec;

    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<NullIndices, CoreError> {
        let expected = checks::element_count(shape)?;
        if expected != indices.len() {
            return Err(CoreError::TensorLength { shape: shape.into(), expected, got: indices.len() });
        }
        Ok(NullIndices { shape: shape.into(), apart: 1 })
    }

    fn read_indices(&self, indices: &NullIndices) -> Result<Vec<u32>, CoreError> {
        let columns = indices.shape.last().copied().unwrap_or(1);
        let rows = indices.shape.iter().product::<usize>() / columns.max(1);
        Ok((0..rows).flat_map(|_| (0..columns as u32).map(|i| i * indices.apart as u32)).collect())
    }

    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<NullTables, CoreError> {
        let &BlockTables { page_size, groups, lengths, .. } = tables;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        Ok(NullTables { page_size, groups, sequences: tables.sequences(), longest })
    }

    fn rotate(
        &self,
        x: &mut NullTensor,
        layout: TokenLayout,
        rotation: &RotationExtents,
    ) -> Result<(), CoreError> {
        rotation.fit(&TokenShape::of("x", &x.shape, layout)?)
    }

    fn rotated(
        &self,
        x: &NullTensor,
        layout: TokenLayout,
        rotation: &RotationExtents,
    ) -> Result<NullTensor, CoreError> {
        rotation.fit(&TokenShape::of("x", &x.shape, layout)?)?;
        Ok(x.clone())
    }

    fn window_scores(
        &self,
        q: &NullTensor,
        k: &NullTensor,
        spec: &WindowSpec,
    ) -> Result<NullTensor, CoreError> {
        let problem = WindowProblem::new(&q.shape, &k.shape, spec)?;
        same_dtype("q", k.dtype, q.dtype)?;
        Ok(NullTensor::new(&[problem.kv_heads, problem.prefix()], DType::F32))
    }

    fn top_k(&self, scores: &NullTensor, k: usize) -> Result<NullIndices, CoreError> {
        let problem = TopKProblem::new(&scores.shape, scores.dtype, k)?;
        let apart = problem.columns / problem.k.max(1);
        Ok(NullIndices { shape: [problem.rows, problem.k].as_slice().into(), apart })
    }

    fn gather_rows(
        &self,
        x: &NullTensor,
        layout: TokenLayout,
        indices: &NullIndices,
    ) -> Result<NullTensor, CoreError> {
        let problem = RowProblem::new(&x.shape, layout, &indices.shape)?;
        Ok(NullTensor::new(&problem.to().dims(), x.dtype))
    }

    fn gather_pages(&self, pool: &NullTensor, indices: &NullIndices) -> Result<NullTensor, CoreError> {
        let problem = PageProblem::new(&pool.shape, &indices.shape)?;
        let mut gathered = pool.clone();
        gathered.shape[0] = problem.kept;
        Ok(gathered)
    }

    fn decode(
        &self,
        q: &NullTensor,
        k: &NullTensor,
        v: &NullTensor,
        tables: &NullTables,
        _scale: f32,
    ) -> Result<(NullTensor, NullTensor), CoreError> {
        let lists = (tables.page_size, tables.groups, tables.sequences);
        let problem = DecodeProblem::new(&q.shape, &k.shape, &v.shape, lists, 0)?;
        DecodeProblem::same_dtype(q.dtype, k.dtype, v.dtype)?;
        Ok(attended(&problem, q.dtype))
    }

    fn read_rows(&self, pool: &NullTensor, rows: &NullIndices) -> Result<NullTensor, CoreError> {
        Ok(NullTensor { shape: PoolRows::new(&pool.shape, &rows.shape)?.shape, ..pool.clone() })
    }

    fn write_rows(&self, pool: &mut NullTensor, rows: &NullIndices, x: &NullTensor) -> Result<(), CoreError> {
        PoolRows::new(&pool.shape, &rows.shape)?.holds(&x.shape)?;
        same_dtype("x", pool.dtype, x.dtype)
    }

    fn write_rows_together(
        &self,
        writes: &mut [(&mut NullTensor, &NullTensor)],
        rows: &NullIndices,
    ) -> Result<(), CoreError> {
        writes.iter_mut().try_for_each(|(pool, x)| self.write_rows(pool, rows, x))
    }

    fn weighted_rows(
        &self,
        pool: &NullTensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<NullTensor, CoreError> {
        let problem = PoolRows::new(&pool.shape, &[lists.len()])?;
        Ok(NullTensor::new(&problem.shape, dtype))
    }

    fn attend_stand_ins(
        &self,
        q: &NullTensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: std::ops::Range<usize>,
        _scale: f32,
        (out, lse): (&mut NullTensor, &mut NullTensor),
    ) -> Result<(), CoreError> {
        let StandIns { keys, values, biases } = stand_ins;
        let shapes: (&[usize], &[usize], &[usize]) = (&keys.shape, &values.shape, &biases.shape);
        StandInProblem::new(&q.shape, (&out.shape, &lse.shape), shapes, &tokens).map(drop)
    }

    fn write_page_bounds(
        &self,
        bounds: &mut NullTensor,
        keys: &NullTensor,
        _which: &NullIndices,
    ) -> Result<(), CoreError> {
        check_bounds((&keys.shape, keys.dtype), (&bounds.shape, bounds.dtype)).map(drop)
    }

    fn chooses_pages(&self) -> bool {
        true
    }

    fn choose_pages(&self, choice: &PageChoice<'_, Self>) -> Result<NullTables, CoreError> {
        choice.lists.check(*choice.table)?;
        let (q, bounds) = (choice.q, choice.bounds);
        let problem = choice.check((&q.shape, q.dtype), (&bounds.shape, bounds.dtype))?;
        let page_size = choice.lists.page_size;
        let longest = choice.lists.lengths.iter().copied().max().unwrap_or(0) as usize;
        Ok(NullTables { page_size, groups: problem.kv_heads, sequences: 1, longest })
    }

    fn add_attention(
        &self,
        sums: &mut NullTensor,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &NullTables,
        attention: &AttendOptions,
        _lse: &NullTensor,
    ) -> Result<(), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        check_sums(&problem, (&sums.shape, sums.dtype))
    }

    fn create_page_table(&self, entries: usize) -> Result<usize, CoreError> {
        Ok(entries)
    }

    fn grow_page_table(&self, table: &mut usize, entries: usize) -> Result<(), CoreError> {
        *table = entries.max(*table);
        Ok(())
    }

    fn write_page_table(&self, _table: &mut usize, at: &[u32], pages: &[u32]) -> Result<(), CoreError> {
        checks::count("pages", at.len(), pages.len())
    }

    fn page_lists(&self, table: &usize, lists: &PageLists<'_>) -> Result<NullTables, CoreError> {
        lists.check(*table)?;
        let &PageLists { page_size, groups, lengths, .. } = lists;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        Ok(NullTables { page_size, groups, sequences: lengths.len() / groups, longest })
    }

    fn upload_attention(&self, options: &AttendOptions) -> Result<AttendOptions, CoreError> {
        options.validate()?;
        Ok(options.clone())
    }

    fn attend_paged(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &NullTables,
        attention: &AttendOptions,
    ) -> Result<(NullTensor, NullTensor), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        Ok(attended(&problem, queries.q.dtype))
    }

    fn list_rows(&self, tables: &NullTables) -> Result<NullIndices, CoreError> {
        let shape = [tables.groups * tables.sequences, tables.longest];
        Ok(NullIndices { shape: shape.as_slice().into(), apart: 1 })
    }

    fn chosen_rows(
        &self,
        tables: &NullTables,
        tokens: &ChosenTokens<'_, NullIndices>,
    ) -> Result<NullIndices, CoreError> {
        let lists = tables.groups * tables.sequences;
        let count = tokens.count((lists, tables.longest), &tokens.chosen.shape, 0)?;
        Ok(NullIndices { shape: [lists, count].as_slice().into(), apart: 1 })
    }

    fn words(&self, indices: &NullIndices) -> Result<NullTensor, CoreError> {
        Ok(NullTensor { shape: indices.shape.clone(), dtype: DType::F32, apart: Some(indices.apart) })
    }

    fn indices(&self, words: &NullTensor, _bound: usize) -> Result<NullIndices, CoreError> {
        Ok(NullIndices { shape: words.shape.clone(), apart: words.apart.unwrap_or(0) })
    }

    fn observes(&self, _leaf: &ScoreLeaf) -> bool {
        true
    }

    fn observe(&self, leaf: &ScoreLeaf, layer: &ObservedLayer<'_, Self>) -> Result<NullTensor, CoreError> {
        let shapes = ObservedShapes {
            rows: &layer.rows.shape,
            k: &layer.k.shape,
            v: &layer.v.shape,
            sums: layer.sums.map(|sums| (sums.shape.as_slice(), sums.dtype)),
            queries: layer.queries.map(|queries| queries.shape.as_slice()),
            probe_keys: layer.probe_keys.map(|keys| keys.shape.as_slice()),
            rotation: layer.rotation.map(MeanRotation::dim),
            projection: layer.projection.map(|of| (of.shape.as_slice(), of.dtype)),
            raw_keys: layer.raw_keys.map(|keys| keys.shape.as_slice()),
            grid: layer.grid.map(TokenGrid::tokens),
        };
        let problem = LeafProblem::new(leaf, &shapes)?;
        Ok(NullTensor::new(&[problem.kv_heads, leaf.columns(problem.tokens)], DType::F32))
    }

    fn score_op(&self, op: &ScoreOp, of: &[&NullTensor]) -> Result<NullTensor, CoreError> {
        let shapes: Vec<&[usize]> = of.iter().map(|scores| scores.shape.as_slice()).collect();
        Ok(NullTensor::new(&op.shape(&shapes)?, DType::F32))
    }

    fn create_codes(&self, spec: &CodeSpec) -> Result<CodeSpec, CoreError> {
        spec.validate()?;
        Ok(*spec)
    }

    fn gather_codes(&self, codes: &CodeSpec, pages: &[u32]) -> Result<CodeSpec, CoreError> {
        Ok(CodeSpec { pages: pages.len(), ..*codes })
    }

    fn code_frames(
        &self,
        codes: &CodeSpec,
        side: Side,
        x: &NullTensor,
    ) -> Result<Option<NullTensor>, CoreError> {
        let len = codes.codec(side).frame_len(codes.head_dim(side));
        let heads = x.shape.get(1).copied().unwrap_or(0);
        Ok((len > 0).then(|| NullTensor::new(&[heads, len], DType::F32)))
    }

    fn write_codes(
        &self,
        codes: &mut CodeSpec,
        pages: &[u32],
        [k, v]: [&NullTensor; 2],
        _frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError> {
        codes.check_rows(pages.len(), &k.shape, &v.shape)
    }

    fn copy_code_rows(&self, _codes: &mut CodeSpec, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        checks::count("rows", from.len(), to.len())
    }

    fn restore_codes(
        &self,
        codes: &CodeSpec,
        pages: &[u32],
        _frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[NullTensor; 2], CoreError> {
        let n = pages.len();
        let rows = |dim: usize| NullTensor::new(&[codes.page_size, n, dim], dtype);
        Ok([rows(codes.head_dims.0), rows(codes.head_dims.1)])
    }

    fn attend_codes(
        &self,
        q: &NullTensor,
        codes: &CodeSpec,
        _frames: &CodeFrames<'_, Self>,
        tables: &NullTables,
        _scale: f32,
    ) -> Result<(NullTensor, NullTensor), CoreError> {
        let pool = |dim: usize| [codes.pages, codes.page_size, 1, dim];
        let lists = (tables.page_size, tables.groups, tables.sequences);
        let (k, v) = (pool(codes.head_dims.0), pool(codes.head_dims.1));
        Ok(attended(&DecodeProblem::new(&q.shape, &k, &v, lists, 0)?, q.dtype))
    }

    fn merge_attention(
        &self,
        (out, lse): (&NullTensor, &NullTensor),
        _other: (&NullTensor, &NullTensor),
    ) -> Result<(NullTensor, NullTensor), CoreError> {
        Ok((out.clone(), lse.clone()))
    }
}

impl Null {
    /// The problem of a batch whose arguments fit each other.
    fn batch(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &NullTables,
        attention: &AttendOptions,
    ) -> Result<DecodeProblem, CoreError> {
        let (q, k, v) = (queries.q, kv.k, kv.v);
        let problem = batch_problem(&q.shape, (&k.shape, &v.shape), (tables.page_size, tables.groups, 0))?;
        check_starts(queries.starts, tables.sequences, problem.sequences)?;
        attention.fit(problem.query_heads())?;
        DecodeProblem::same_dtype(q.dtype, k.dtype, v.dtype)?;
        Ok(problem)
    }
}
