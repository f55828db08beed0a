//! Quantised keys and values on the device.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_codec::{CodeProblem, CodecEngine, Format, Grouping, HostCodes};
use tether_core::{CoreError, DType, Shape};

use super::tokens::CubeTables;
use super::{Cube, CubeTensor};
use crate::ops::{
    self,
    decode::{Asked, Stored},
};

/// Codes with their scales on the device.
#[derive(Clone, Debug)]
pub struct CubeCodes {
    pub(crate) shape: Shape,
    pub(crate) problem: CodeProblem,
    /// Bytes, in `u32` words.
    pub(crate) codes: Handle,
    /// `f32`, of [`CodeProblem::scale_shape`].
    pub(crate) scales: Handle,
    /// As the scales; one unused word for [`Grouping::Token`].
    pub(crate) zeros: Handle,
}

impl CubeCodes {
    /// Shape of what was quantised.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.problem.format
    }

    /// 32-bit words of the codes.
    pub(crate) fn words(&self) -> usize {
        self.problem.code_bytes() / 4
    }

    /// Number of scales.
    pub(crate) fn scale_len(&self) -> usize {
        self.problem.scale_shape().iter().product()
    }

    /// Number of zeros.
    pub(crate) fn zero_len(&self) -> usize {
        match self.problem.format.grouping {
            Grouping::Token => 0,
            Grouping::Channel(_) => self.scale_len(),
        }
    }
}

impl<R: Runtime> Cube<R> {
    fn empty_codes(&self, shape: Shape, problem: CodeProblem) -> CubeCodes {
        let unused = self.client.empty(4);
        let mut codes =
            CubeCodes { shape, problem, codes: unused.clone(), scales: unused.clone(), zeros: unused };
        codes.codes = self.client.empty(codes.words().max(1) * 4);
        codes.scales = self.client.empty(codes.scale_len().max(1) * 4);
        if codes.zero_len() > 0 {
            codes.zeros = self.client.empty(codes.zero_len() * 4);
        }
        codes
    }
}

impl<R: Runtime> CodecEngine for Cube<R> {
    type Codes = CubeCodes;

    fn quantise(&self, x: &CubeTensor, format: Format) -> Result<CubeCodes, CoreError> {
        let problem = CodeProblem::new(&x.shape, format)?;
        self.require(x.dtype)?;
        let codes = self.empty_codes(x.shape.clone(), problem);
        if x.len() > 0 {
            ops::quantise::launch(&self.client, x, &codes)?;
        }
        Ok(codes)
    }

    fn dequantise(&self, codes: &CubeCodes, dtype: DType) -> Result<CubeTensor, CoreError> {
        self.require(dtype)?;
        let out = self.tensor(&codes.shape, dtype)?;
        if out.len() > 0 {
            ops::quantise::launch_inverse(&self.client, codes, &out);
        }
        Ok(out)
    }

    fn upload_codes(&self, codes: &HostCodes) -> Result<CubeCodes, CoreError> {
        let problem = codes.check()?;
        let bytes =
            |bytes: &[u8]| self.client.create_from_slice(if bytes.is_empty() { &[0; 4] } else { bytes });
        Ok(CubeCodes {
            shape: codes.shape.clone(),
            problem,
            codes: bytes(&codes.codes),
            scales: bytes(f32::as_bytes(&codes.scales)),
            zeros: bytes(f32::as_bytes(&codes.zeros)),
        })
    }

    fn read_codes(&self, codes: &CubeCodes) -> Result<HostCodes, CoreError> {
        let device = |message| CoreError::Device { engine: self.name, message };
        let handles = vec![codes.codes.clone(), codes.scales.clone(), codes.zeros.clone()];
        let read = cubecl::future::block_on(self.client.read_async(handles));
        let read = read.map_err(|error| device(format!("{error:?}")))?;
        let lens = [codes.words(), codes.scale_len(), codes.zero_len()];
        let mut parts = read.iter().zip(lens).map(|(bytes, words)| bytes.get(..words * 4));
        let mut next =
            || parts.next().flatten().ok_or_else(|| device("fewer codes came back than there are".into()));
        Ok(HostCodes {
            shape: codes.shape.clone(),
            format: codes.problem.format,
            codes: next()?.to_vec(),
            scales: f32::from_bytes(next()?).to_vec(),
            zeros: f32::from_bytes(next()?).to_vec(),
        })
    }

    fn decode_codes(
        &self,
        q: &CubeTensor,
        k: &CubeCodes,
        v: &CubeCodes,
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let problem = self.decode_problem(q, &k.shape, &v.shape, tables)?;
        let (fk, fv) = (k.format(), v.format());
        if fk.grouping != Grouping::Token || fv.grouping != Grouping::Token || fk.bits != fv.bits {
            let feature = "attention over codes that are not per token, or keys and values of unequal bits";
            return Err(CoreError::Unsupported { engine: self.name, feature });
        }
        let asked = Asked { problem: &problem, tables, q, scale, shaping: None };
        self.decode_stored(&asked, &Stored::Codes { k, v })
    }
}
