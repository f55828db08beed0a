//! Spherical codes on the host: the reference that kernels are held to.

use half::f16;
use rayon::prelude::*;
use tether_codec::{HostSpherical, SphericalEngine, SphericalFormat, SphericalFrame, SphericalProblem};
use tether_core::{CoreError, DType, EMPTY_LSE, Engine, HostTensor, Side, TensorData};

use crate::{Host, HostIndices, HostTables, PagedQueries, paged_attention};

/// Codes of `x`, row by row.
fn coded(
    host: &Host,
    x: &HostTensor,
    frame: &SphericalFrame,
    format: SphericalFormat,
) -> Result<HostSpherical, CoreError> {
    if !host.is_parallel() {
        return HostSpherical::coded(x, frame, format);
    }
    let problem = SphericalProblem::new(x.shape(), format)?;
    problem.suits(frame)?;
    host.check_finite("x", x)?;
    let mut coded = HostSpherical::zeros(x.shape(), format)?;
    let encode = |scratch: &mut Vec<f32>, (row, (codes, radius)): (usize, (&mut [u8], &mut f16))| {
        scratch.resize(problem.head_dim, 0.0);
        x.data().widen_into(row * problem.head_dim, scratch);
        *radius = frame.encode_row(row % problem.heads, scratch, format, codes);
    };
    let rows = coded.codes.par_chunks_exact_mut(problem.row_bytes()).zip(&mut coded.radii).enumerate();
    rows.for_each_init(Vec::new, encode);
    coded.check_radii()?;
    Ok(coded)
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
        let HostSpherical { codes, radii, .. } = coded(host, x, frame, pool.format)?;
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
        coded(self, x, frame, format)
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
        let (mut out, mut lse) = (out.into_f32_vec(), lse.into_f32_vec());
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
