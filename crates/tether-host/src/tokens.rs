//! Token operations on the host.

mod causal;
mod code_pages;
mod decode;
mod few;
mod gather;
mod paged;
mod restore_rows;
mod rotate;
mod segments;
mod shaped;
mod sums;
mod tables;
mod top_k;
mod window;

pub use code_pages::HostCodePages;
pub use decode::{PagedQueries, paged_attention};
use paged::Rows;
use shaped::Shaping;
pub use tables::{HostPageTable, HostTables};

use std::ops::Range;
use std::sync::Arc;

use crate::Host;
use tether_core::checks;
use tether_core::{
    AttendOptions, BlockTables, ChosenTokens, CodeFrames, CodeSpec, CoreError, DType, DecodeProblem,
    HostTensor, NewQueries, PageLists, PageProblem, PagedKv, PoolRows, RotationPhases, RowLists, RowProblem,
    ScoreOp, Shape, Side, StandIns, TokenEngine, TokenLayout, TokenShape, TopKProblem, Traffic,
    WindowProblem, WindowSpec, batch_problem, check_lengths, check_positions, check_starts, check_sums,
};

/// Row, page or token numbers in host memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIndices {
    shape: Shape,
    values: Vec<u32>,
}

impl HostIndices {
    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, row-major.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// All numbers are below `limit`.
    fn below(&self, what: &'static str, limit: usize) -> Result<(), CoreError> {
        let bound = self.values.iter().max().map_or(0, |&i| i as usize + 1);
        if bound > limit { Err(CoreError::Count { what, expected: bound, got: limit }) } else { Ok(()) }
    }
}

impl TokenEngine for Host {
    type Indices = HostIndices;
    type Tables = HostTables;
    type PageTable = HostPageTable;
    type Attention = AttendOptions;
    type CodePages = HostCodePages;

    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<HostIndices, CoreError> {
        let expected = checks::element_count(shape)?;
        if expected != indices.len() {
            return Err(CoreError::TensorLength { shape: shape.into(), expected, got: indices.len() });
        }
        Ok(HostIndices { shape: shape.into(), values: indices.to_vec() })
    }

    fn read_indices(&self, indices: &HostIndices) -> Result<Vec<u32>, CoreError> {
        let read_back = size_of_val(indices.values.as_slice()) as u64;
        self.traffic.add(Traffic { read_back, ..Traffic::default() });
        Ok(indices.values.clone())
    }

    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<HostTables, CoreError> {
        HostTables::new(tables)
    }

    fn rotate(
        &self,
        x: &mut HostTensor,
        layout: TokenLayout,
        rotation: &Arc<RotationPhases>,
    ) -> Result<(), CoreError> {
        let shape = TokenShape::of("x", x.shape(), layout)?;
        rotation.extents().fit(&shape)?;
        rotate::apply(rotation, x.elements_mut(), &shape, self.parallel);
        Ok(())
    }

    fn rotated(
        &self,
        x: &HostTensor,
        layout: TokenLayout,
        rotation: &Arc<RotationPhases>,
    ) -> Result<HostTensor, CoreError> {
        let mut out = x.clone();
        self.rotate(&mut out, layout, rotation)?;
        Ok(out)
    }

    fn window_scores(
        &self,
        q: &HostTensor,
        k: &HostTensor,
        spec: &WindowSpec,
    ) -> Result<HostTensor, CoreError> {
        let problem = WindowProblem::new(q.shape(), k.shape(), spec)?;
        if q.dtype() != k.dtype() {
            return Err(CoreError::DTypeMismatch { what: "q", expected: k.dtype(), got: q.dtype() });
        }
        let scores = window::scores(&problem, spec, q.data(), k.data(), self.parallel);
        HostTensor::from_f32(&[problem.kv_heads, problem.prefix()], scores)
    }

    fn top_k(&self, scores: &HostTensor, k: usize) -> Result<HostIndices, CoreError> {
        let problem = TopKProblem::new(scores.shape(), scores.dtype(), k)?;
        let Some(numbers) = scores.as_f32() else {
            return Err(CoreError::DTypeMismatch {
                what: "scores",
                expected: DType::F32,
                got: scores.dtype(),
            });
        };
        if let Some(index) = numbers.iter().position(|x| x.is_nan()) {
            return Err(CoreError::NonFinite { what: "scores", index });
        }
        let values = top_k::select(&problem, numbers, self.parallel);
        Ok(HostIndices { shape: [problem.rows, problem.k].as_slice().into(), values })
    }

    fn gather_rows(
        &self,
        x: &HostTensor,
        layout: TokenLayout,
        indices: &HostIndices,
    ) -> Result<HostTensor, CoreError> {
        let problem = RowProblem::new(x.shape(), layout, &indices.shape)?;
        indices.below("tokens", problem.from.tokens)?;
        let data = gather::rows(&problem, x.data(), &indices.values)?;
        self.traffic.add(Traffic { gathered: data.as_bytes().len() as u64, ..Traffic::default() });
        HostTensor::new(&problem.to().dims(), data)
    }

    fn gather_pages(&self, pool: &HostTensor, indices: &HostIndices) -> Result<HostTensor, CoreError> {
        let problem = PageProblem::new(pool.shape(), &indices.shape)?;
        indices.below("pages", problem.pages)?;
        let data = gather::pages(&problem, pool.data(), &indices.values)?;
        self.traffic.add(Traffic { gathered: data.as_bytes().len() as u64, ..Traffic::default() });
        let mut shape = Shape::from_slice(pool.shape());
        shape[0] = problem.kept;
        HostTensor::new(&shape, data)
    }

    fn decode(
        &self,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        tables: &HostTables,
        scale: f32,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let problem = tables.problem(q.shape(), k.shape(), v.shape())?;
        DecodeProblem::same_dtype(q.dtype(), k.dtype(), v.dtype())?;
        let queries = PagedQueries { q, scale, parallel: self.parallel };
        decode::attend_to_lists(&problem, tables, &queries, &Pools { keys: k, values: v }, None)
    }

    fn read_rows(&self, pool: &HostTensor, rows: &HostIndices) -> Result<HostTensor, CoreError> {
        let problem = PoolRows::new(pool.shape(), &rows.shape)?;
        rows.below("rows", problem.pool_rows)?;
        let data = gather::pages(&problem.pages(), pool.data(), &rows.values)?;
        self.traffic.add(Traffic { gathered: data.as_bytes().len() as u64, ..Traffic::default() });
        HostTensor::new(&problem.shape, data)
    }

    fn write_rows(&self, pool: &mut HostTensor, rows: &HostIndices, x: &HostTensor) -> Result<(), CoreError> {
        let problem = self.check_rows(pool, rows, x)?;
        gather::scatter(&problem, pool, &rows.values, x.data());
        self.traffic.add(Traffic { written: x.data().as_bytes().len() as u64, ..Traffic::default() });
        Ok(())
    }

    fn write_rows_together(
        &self,
        writes: &mut [(&mut HostTensor, &HostTensor)],
        rows: &HostIndices,
    ) -> Result<(), CoreError> {
        for (pool, x) in writes.iter() {
            self.check_rows(pool, rows, x)?;
        }
        writes.iter_mut().try_for_each(|(pool, x)| self.write_rows(pool, rows, x))
    }

    fn weighted_rows(
        &self,
        pool: &HostTensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<HostTensor, CoreError> {
        let problem = PoolRows::new(pool.shape(), &[lists.len()])?;
        lists.check(problem.pool_rows)?;
        segments::weighted_rows(pool, problem.row_len, lists, dtype)
    }

    fn attend_stand_ins(
        &self,
        q: &HostTensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: Range<usize>,
        scale: f32,
        results: (&mut HostTensor, &mut HostTensor),
    ) -> Result<(), CoreError> {
        segments::attend_stand_ins(q, stand_ins, tokens, scale, results)
    }

    fn write_page_bounds(
        &self,
        bounds: &mut HostTensor,
        keys: &HostTensor,
        which: &HostIndices,
    ) -> Result<(), CoreError> {
        segments::write_page_bounds(bounds, keys, which)
    }

    fn add_attention(
        &self,
        sums: &mut HostTensor,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &HostTables,
        attention: &AttendOptions,
        _: &HostTensor,
    ) -> Result<(), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        check_sums(&problem, (sums.shape(), sums.dtype()))?;
        let got = sums.dtype();
        let into = sums.as_f32_mut();
        let into =
            into.ok_or(CoreError::DTypeMismatch { what: "sums of attention", expected: DType::F32, got })?;
        let shaping = Shaping::of(attention, kv.positions.zip(queries.positions));
        let queries =
            (queries.starts, PagedQueries { q: queries.q, scale: attention.scale, parallel: self.parallel });
        sums::add(&problem, tables, &queries, kv.k, shaping.as_ref(), into);
        Ok(())
    }

    fn create_page_table(&self, entries: usize) -> Result<HostPageTable, CoreError> {
        let mut table = HostPageTable::default();
        table.grow(entries);
        Ok(table)
    }

    fn grow_page_table(&self, table: &mut HostPageTable, entries: usize) -> Result<(), CoreError> {
        table.grow(entries);
        Ok(())
    }

    fn write_page_table(
        &self,
        table: &mut HostPageTable,
        at: &[u32],
        pages: &[u32],
    ) -> Result<(), CoreError> {
        table.write(at, pages)
    }

    fn page_lists(&self, table: &HostPageTable, lists: &PageLists<'_>) -> Result<HostTables, CoreError> {
        table.lists(lists)
    }

    fn upload_attention(&self, options: &AttendOptions) -> Result<AttendOptions, CoreError> {
        options.validate()?;
        Ok(options.clone())
    }

    fn attend_paged(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &HostTables,
        attention: &AttendOptions,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let problem = self.batch(queries, kv, tables, attention)?;
        let &NewQueries { q, starts, .. } = queries;
        let shaping = Shaping::of(attention, kv.positions.zip(queries.positions));
        let queries = PagedQueries { q, scale: attention.scale, parallel: self.parallel };
        let pools = Pools { keys: kv.k, values: kv.v };
        causal::causal(&problem, tables, starts, &queries, &pools, shaping.as_ref())
    }

    fn list_rows(&self, tables: &HostTables) -> Result<HostIndices, CoreError> {
        let tokens = checks::equally_long(&tables.lengths)?;
        let lists = tables.lengths.len();
        let size = tables.extents().0;
        let row = |list: usize, t: usize| tables.pages(list)[t / size] * size as u32 + (t % size) as u32;
        let values = (0..lists).flat_map(|list| (0..tokens).map(move |t| row(list, t))).collect();
        Ok(HostIndices { shape: [lists, tokens].as_slice().into(), values })
    }

    fn chosen_rows(
        &self,
        tables: &HostTables,
        tokens: &ChosenTokens<'_, HostIndices>,
    ) -> Result<HostIndices, CoreError> {
        let all = self.list_rows(tables)?;
        let (lists, each) = (all.shape[0], all.shape[1]);
        let &ChosenTokens { first, chosen, last } = tokens;
        let bound = chosen.values.iter().max().map_or(0, |&n| n as usize + 1);
        let count = tokens.count((lists, each), &chosen.shape, bound)?;
        let between = count - first - last;
        let of_list = |list: usize| {
            let others = chosen.values[list * between..][..between].iter().map(move |&n| first + n as usize);
            let tokens = (0..first).chain(others).chain(each - last..each);
            let values = &all.values;
            tokens.map(move |token| values[list * each + token])
        };
        let values = (0..lists).flat_map(of_list).collect();
        Ok(HostIndices { shape: [lists, count].as_slice().into(), values })
    }

    fn words(&self, indices: &HostIndices) -> Result<HostTensor, CoreError> {
        HostTensor::from_f32(
            &indices.shape,
            indices.values.iter().map(|&word| f32::from_bits(word)).collect(),
        )
    }

    fn indices(&self, words: &HostTensor, _: usize) -> Result<HostIndices, CoreError> {
        let got = words.dtype();
        let numbers = words.as_f32();
        let numbers = numbers.ok_or(CoreError::DTypeMismatch { what: "words", expected: DType::F32, got })?;
        let values = numbers.iter().map(|word| word.to_bits()).collect();
        Ok(HostIndices { shape: words.shape().into(), values })
    }

    fn score_op(&self, op: &ScoreOp, of: &[&HostTensor]) -> Result<HostTensor, CoreError> {
        let shapes: Vec<&[usize]> = of.iter().map(|scores| scores.shape()).collect();
        let shape = op.shape(&shapes)?;
        let numbers = |scores: &&HostTensor| {
            let (what, expected, got) = ("scores", DType::F32, scores.dtype());
            let numbers = scores.as_f32().map(<[f32]>::to_vec);
            numbers.ok_or(CoreError::DTypeMismatch { what, expected, got })
        };
        let numbers = of.iter().map(numbers).collect::<Result<Vec<_>, _>>()?;
        let numbers: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
        HostTensor::from_f32(&shape, op.apply(&numbers, [shapes[0][0], shapes[0][1]]))
    }

    fn create_codes(&self, spec: &CodeSpec) -> Result<HostCodePages, CoreError> {
        HostCodePages::new(spec)
    }

    fn gather_codes(&self, codes: &HostCodePages, pages: &[u32]) -> Result<HostCodePages, CoreError> {
        codes.gathered(pages)
    }

    fn code_frames(
        &self,
        codes: &HostCodePages,
        side: Side,
        x: &HostTensor,
    ) -> Result<Option<HostTensor>, CoreError> {
        codes.frames_of(side, x)
    }

    fn write_codes(
        &self,
        codes: &mut HostCodePages,
        pages: &[u32],
        rows: [&HostTensor; 2],
        frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError> {
        codes.write(pages, rows, frames)
    }

    fn copy_code_rows(&self, codes: &mut HostCodePages, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        codes.copy_rows(from, to)
    }

    fn restore_codes(
        &self,
        codes: &HostCodePages,
        pages: &[u32],
        frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[HostTensor; 2], CoreError> {
        codes.restored(pages, frames, dtype)
    }

    fn attend_codes(
        &self,
        q: &HostTensor,
        codes: &HostCodePages,
        frames: &CodeFrames<'_, Self>,
        tables: &HostTables,
        scale: f32,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        codes.attend(q, frames, tables, (scale, self.parallel))
    }

    fn merge_attention(
        &self,
        one: (&HostTensor, &HostTensor),
        other: (&HostTensor, &HostTensor),
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        code_pages::merged(one, other)
    }
}

impl Host {
    /// The problem of a batch whose arguments fit each other.
    fn batch(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &HostTables,
        attention: &AttendOptions,
    ) -> Result<DecodeProblem, CoreError> {
        let q = queries.q;
        let problem = batch_problem(q.shape(), (kv.k.shape(), kv.v.shape()), tables.extents())?;
        check_starts(queries.starts, tables.sequences(), problem.sequences)?;
        check_lengths(queries.starts, tables.groups, &tables.lengths)?;
        DecodeProblem::same_dtype(q.dtype(), kv.k.dtype(), kv.v.dtype())?;
        let positions = [kv.positions, queries.positions].map(|of| of.map(HostIndices::shape));
        check_positions(&problem, positions[0], positions[1])?;
        attention.fit(problem.query_heads())?;
        Ok(problem)
    }

    /// Rows `rows` of `pool` can take `x`.
    fn check_rows(
        &self,
        pool: &HostTensor,
        rows: &HostIndices,
        x: &HostTensor,
    ) -> Result<PoolRows, CoreError> {
        let problem = PoolRows::new(pool.shape(), &rows.shape)?;
        problem.holds(x.shape())?;
        if x.dtype() != pool.dtype() {
            return Err(CoreError::DTypeMismatch { what: "x", expected: pool.dtype(), got: x.dtype() });
        }
        rows.below("rows", problem.pool_rows)?;
        Ok(problem)
    }
}

/// Pools of numbers.
struct Pools<'a> {
    keys: &'a HostTensor,
    values: &'a HostTensor,
}

impl Pools<'_> {
    fn of(&self, side: Side) -> &HostTensor {
        match side {
            Side::Keys => self.keys,
            Side::Values => self.values,
        }
    }
}

impl Rows for Pools<'_> {
    fn load(&self, side: Side, row: usize, into: &mut [f32]) {
        let pool = self.of(side);
        let dim = pool.shape().last().copied().unwrap_or(0);
        pool.data().widen_into(row * dim, into);
    }

    fn lend(&self, side: Side) -> Option<&[f32]> {
        self.of(side).as_f32()
    }
}
