//! Codes on the host: the reference that kernels are held to.

mod dequantise;
mod quantise;

use rayon::prelude::*;
use tether_codec::{CodeProblem, CodecEngine, Format, Grouping, HostCodes};
use tether_core::{CoreError, DType, Engine, HostTensor, Side, TensorData};

use crate::{Host, HostTables, PagedQueries, paged_attention};

impl CodecEngine for Host {
    type Codes = HostCodes;

    fn quantise(&self, x: &HostTensor, format: Format) -> Result<HostCodes, CoreError> {
        let problem = CodeProblem::new(x.shape(), format)?;
        self.check_finite("x", x)?;
        quantise::codes(x, &problem, self.is_parallel())
    }

    fn dequantise(&self, codes: &HostCodes, dtype: DType) -> Result<HostTensor, CoreError> {
        let problem = codes.check()?;
        let mut out = vec![0f32; problem.tokens * problem.heads * problem.head_dim];
        let row = |(row, into): (usize, &mut [f32])| dequantise::row(codes, &problem, row, into);
        // Whatever has no channels has no rows either.
        if self.is_parallel() {
            out.par_chunks_exact_mut(problem.head_dim.max(1)).enumerate().for_each(row);
        } else {
            out.chunks_exact_mut(problem.head_dim.max(1)).enumerate().for_each(row);
        }
        HostTensor::new(&codes.shape, TensorData::narrowed(dtype, &out))
    }

    fn upload_codes(&self, codes: &HostCodes) -> Result<HostCodes, CoreError> {
        codes.check()?;
        Ok(codes.clone())
    }

    fn read_codes(&self, codes: &HostCodes) -> Result<HostCodes, CoreError> {
        Ok(codes.clone())
    }

    fn decode_codes(
        &self,
        q: &HostTensor,
        k: &HostCodes,
        v: &HostCodes,
        tables: &HostTables,
        scale: f32,
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let problem = tables.problem(q.shape(), &k.shape, &v.shape)?;
        let (fk, fv) = (k.format, v.format);
        if fk.grouping != Grouping::Token || fv.grouping != Grouping::Token || fk.bits != fv.bits {
            let feature = "attention over codes that are not per token, or keys and values of unequal bits";
            return Err(CoreError::Unsupported { engine: self.name(), feature });
        }
        let (keys, values) = (k.check()?, v.check()?);
        let load = |side: Side, row: usize, into: &mut [f32]| {
            let (codes, checked, dim) = match side {
                Side::Keys => (k, &keys, problem.head_dim_k),
                Side::Values => (v, &values, problem.head_dim_v),
            };
            let rows = (row..).zip(into.chunks_exact_mut(dim));
            rows.for_each(|(row, into)| dequantise::row(codes, checked, row, into));
        };
        let queries = PagedQueries { q, scale, parallel: self.is_parallel() };
        paged_attention(&problem, tables, &queries, load)
    }
}
