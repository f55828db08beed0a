//! Token operations on the host.

mod decode;
mod extend;
mod few;
mod gather;
mod paged;
mod rotate;
mod tables;
mod top_k;
mod window;

pub use decode::{PagedQueries, paged_attention};
use paged::Rows;
pub use paged::attend_to_rows;
pub use rotate::HostRotation;
pub use tables::HostTables;

use super::Host;
use crate::engine::Side;
use crate::{
    BlockTables, CoreError, DType, DecodeProblem, HostTensor, PageProblem, PoolRows, Rotation, RowProblem,
    Shape, TokenEngine, TokenLayout, TokenShape, TopKProblem, Traffic, WindowProblem, WindowSpec,
    check_extend,
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
    type Rotation = HostRotation;
    type Tables = HostTables;

    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<HostIndices, CoreError> {
        let expected = crate::tensor::element_count(shape)?;
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

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<HostRotation, CoreError> {
        HostRotation::new(rotation)
    }

    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<HostTables, CoreError> {
        HostTables::new(tables)
    }

    fn rotate(
        &self,
        x: &mut HostTensor,
        layout: TokenLayout,
        rotation: &HostRotation,
    ) -> Result<(), CoreError> {
        let shape = TokenShape::of("x", x.shape(), layout)?;
        rotation.extents().fit(&shape)?;
        rotation.apply(x.data_mut(), &shape, self.parallel);
        Ok(())
    }

    fn rotated(
        &self,
        x: &HostTensor,
        layout: TokenLayout,
        rotation: &HostRotation,
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
        decode::attend_to_lists(&problem, &tables.view(), &queries, &Pools { keys: k, values: v })
    }

    fn read_rows(&self, pool: &HostTensor, rows: &HostIndices) -> Result<HostTensor, CoreError> {
        let problem = PoolRows::new(pool.shape(), &rows.shape)?;
        rows.below("rows", problem.pool_rows)?;
        let data = gather::pages(&problem.pages(), pool.data(), &rows.values)?;
        self.traffic.add(Traffic { gathered: data.as_bytes().len() as u64, ..Traffic::default() });
        HostTensor::new(&problem.shape, data)
    }

    fn write_rows(&self, pool: &mut HostTensor, rows: &HostIndices, x: &HostTensor) -> Result<(), CoreError> {
        let problem = PoolRows::new(pool.shape(), &rows.shape)?;
        problem.holds(x.shape())?;
        if x.dtype() != pool.dtype() {
            return Err(CoreError::DTypeMismatch { what: "x", expected: pool.dtype(), got: x.dtype() });
        }
        rows.below("rows", problem.pool_rows)?;
        gather::scatter(&problem, pool.data_mut(), &rows.values, x.data());
        self.traffic.add(Traffic { written: x.data().as_bytes().len() as u64, ..Traffic::default() });
        Ok(())
    }

    fn extend(
        &self,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        tables: &BlockTables<'_>,
        scale: f32,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let tokens = q.shape().first().copied().unwrap_or(0);
        check_extend(tables, tokens)?;
        let lists = (tables.page_size, tables.groups, tokens);
        let problem = DecodeProblem::new(q.shape(), k.shape(), v.shape(), lists, tables.page_bound())?;
        DecodeProblem::same_dtype(q.dtype(), k.dtype(), v.dtype())?;
        let queries = PagedQueries { q, scale, parallel: self.parallel };
        extend::causal(&problem, tables, &queries, &Pools { keys: k, values: v })
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
