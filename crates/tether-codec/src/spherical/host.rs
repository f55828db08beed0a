//! Spherical codes on the host: the reference that kernels are held to.

use half::f16;
use rayon::prelude::*;
use tether_core::host::{HostIndices, HostTables, PagedQueries, paged_attention};
use tether_core::{CoreError, DType, EMPTY_LSE, Engine, Host, HostTensor, Side, TensorData};

use super::{HostSpherical, SphericalEngine, SphericalFormat, SphericalFrame, SphericalProblem, row};

/// Codes of each row of `x` and their radii.
fn encode(
    x: &HostTensor,
    problem: &SphericalProblem,
    frame: &SphericalFrame,
    parallel: bool,
) -> Result<(Vec<u8>, Vec<f16>), CoreError> {
    let mut codes = vec![0u8; problem.code_bytes()];
    let mut radii = vec![f16::ZERO; problem.rows()];
    let dim = problem.head_dim;
    let encode = |scratch: &mut Vec<f32>, (row, (codes, radius)): (usize, (&mut [u8], &mut f16))| {
        scratch.resize(dim, 0.0);
        x.data().widen_into(row * dim, scratch);
        scratch.iter_mut().zip(frame.mean(row % problem.heads)).for_each(|(x, m)| *x -= m);
        *radius = f16::from_f32(row::encode(scratch, frame.rotation(), problem.format, codes));
    };
    let bytes = problem.row_bytes();
    if parallel {
        let rows = codes.par_chunks_exact_mut(bytes).zip(&mut radii).enumerate();
        rows.for_each_init(Vec::new, encode);
    } else {
        let mut scratch = Vec::new();
        codes.chunks_exact_mut(bytes).zip(&mut radii).enumerate().for_each(|row| encode(&mut scratch, row));
    }
    match radii.iter().position(|r| !r.is_finite()) {
        Some(index) => Err(CoreError::NonFinite { what: "radius of a row of x", index }),
        None => Ok((codes, radii)),
    }
}

/// Rows that were coded for a pool, and not put there yet.
struct CodedForPool {
    row_bytes: usize,
    codes: Vec<u8>,
    radii: Vec<f16>,
}

impl CodedForPool {
    fn new(
        host: &Host,
        pool: &HostSpherical,
        rows: &HostIndices,
        x: &HostTensor,
        frame: &SphericalFrame,
    ) -> Result<Self, CoreError> {
        let places = pool.check()?;
        let problem = SphericalProblem::new(x.shape(), pool.format)?;
        problem.suits(frame)?;
        problem.written_to(&places, x.shape(), rows.shape())?;
        if let Some(&row) = rows.values().iter().find(|&&row| row as usize >= places.rows()) {
            return Err(CoreError::Count { what: "rows", expected: row as usize + 1, got: places.rows() });
        }
        host.check_finite("x", x)?;
        let (codes, radii) = encode(x, &problem, frame, host.is_parallel())?;
        Ok(Self { row_bytes: problem.row_bytes(), codes, radii })
    }

    fn store(self, pool: &mut HostSpherical, rows: &HostIndices) {
        let bytes = self.row_bytes;
        for ((&row, codes), radius) in
            rows.values().iter().zip(self.codes.chunks_exact(bytes)).zip(self.radii)
        {
            pool.codes[row as usize * bytes..][..bytes].copy_from_slice(codes);
            pool.radii[row as usize] = radius;
        }
    }
}

impl SphericalEngine for Host {
    type Spherical = HostSpherical;
    type Frame = SphericalFrame;

    fn upload_frame(&self, frame: &SphericalFrame) -> Result<SphericalFrame, CoreError> {
        Ok(frame.clone())
    }

    fn quantise_spherical(
        &self,
        x: &HostTensor,
        frame: &SphericalFrame,
        format: SphericalFormat,
    ) -> Result<HostSpherical, CoreError> {
        let problem = SphericalProblem::new(x.shape(), format)?;
        problem.suits(frame)?;
        self.check_finite("x", x)?;
        let (codes, radii) = encode(x, &problem, frame, self.is_parallel())?;
        Ok(HostSpherical { shape: x.shape().into(), format, codes, radii })
    }

    fn dequantise_spherical(
        &self,
        codes: &HostSpherical,
        frame: &SphericalFrame,
        dtype: DType,
    ) -> Result<HostTensor, CoreError> {
        let problem = codes.check()?;
        problem.suits(frame)?;
        let mut out = vec![0f32; problem.rows() * problem.head_dim];
        let decode = |(row, into): (usize, &mut [f32])| {
            codes.rotated_row(&problem, row, into);
            frame.leave(row % problem.heads, into, 1.0);
        };
        if self.is_parallel() {
            out.par_chunks_exact_mut(problem.head_dim).enumerate().for_each(decode);
        } else {
            out.chunks_exact_mut(problem.head_dim).enumerate().for_each(decode);
        }
        HostTensor::new(&codes.shape, TensorData::narrowed(dtype, &out))
    }

    fn upload_spherical(&self, codes: &HostSpherical) -> Result<HostSpherical, CoreError> {
        codes.check()?;
        Ok(codes.clone())
    }

    fn read_spherical(&self, codes: &HostSpherical) -> Result<HostSpherical, CoreError> {
        Ok(codes.clone())
    }

    fn write_spherical(
        &self,
        pool: &mut HostSpherical,
        rows: &HostIndices,
        x: &HostTensor,
        frame: &SphericalFrame,
    ) -> Result<(), CoreError> {
        CodedForPool::new(self, pool, rows, x, frame)?.store(pool, rows);
        Ok(())
    }

    fn write_spherical_pair(
        &self,
        [k_pool, v_pool]: [&mut HostSpherical; 2],
        rows: &HostIndices,
        [k, v]: [&HostTensor; 2],
        [k_frame, v_frame]: [&SphericalFrame; 2],
    ) -> Result<(), CoreError> {
        let keys = CodedForPool::new(self, k_pool, rows, k, k_frame)?;
        let values = CodedForPool::new(self, v_pool, rows, v, v_frame)?;
        keys.store(k_pool, rows);
        values.store(v_pool, rows);
        Ok(())
    }

    fn decode_spherical(
        &self,
        q: &HostTensor,
        (k, k_frame): (&HostSpherical, &SphericalFrame),
        (v, v_frame): (&HostSpherical, &SphericalFrame),
        tables: &HostTables,
        scale: f32,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let problem = tables.problem(q.shape(), &k.shape, &v.shape)?;
        k_frame.holds("frame of keys", problem.kv_heads, problem.head_dim_k)?;
        v_frame.holds("frame of values", problem.kv_heads, problem.head_dim_v)?;
        let (keys, values) = (k.check()?, v.check()?);
        let (dk, dv) = (problem.head_dim_k, problem.head_dim_v);
        let head = |row: usize| row % problem.query_heads() / problem.group;
        let mut rotated = q.to_f32_vec();
        let mut shared = Vec::with_capacity(rotated.len() / dk);
        for (row, q) in rotated.chunks_exact_mut(dk).enumerate() {
            shared.push(k_frame.enter(head(row), q) * scale);
        }
        let rotated = HostTensor::from_f32(q.shape(), rotated)?;
        let load = |side: Side, row: usize, into: &mut [f32]| {
            let (codes, checked, dim) = match side {
                Side::Keys => (k, &keys, dk),
                Side::Values => (v, &values, dv),
            };
            (row..)
                .zip(into.chunks_exact_mut(dim))
                .for_each(|(row, into)| codes.rotated_row(checked, row, into));
        };
        let queries = PagedQueries { q: &rotated, scale, parallel: self.is_parallel() };
        let (out, lse) = paged_attention(&problem, tables, &queries, load)?;
        let (mut out, mut lse) = (out.to_f32_vec(), lse.to_f32_vec());
        let rows = out.chunks_exact_mut(dv).zip(lse.iter_mut().zip(shared)).enumerate();
        for (row, (out, (lse, shared))) in rows.filter(|(_, (_, (lse, _)))| **lse > EMPTY_LSE) {
            v_frame.leave(head(row), out, 1.0);
            *lse += shared;
        }
        let shape = [problem.sequences, problem.query_heads(), dv];
        Ok((
            HostTensor::new(&shape, TensorData::narrowed(q.dtype(), &out))?,
            HostTensor::from_f32(&shape[..2], lse)?,
        ))
    }
}
