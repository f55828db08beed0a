//! Spherical codes on the device.

use cubecl::prelude::*;
use cubecl::server::Handle;
use half::f16;
use tether_codec::{
    HadamardRotation, HostSpherical, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame,
    SphericalProblem,
};
use tether_core::{CoreError, DType, Shape, Traffic};

use super::tokens::{CubeIndices, CubeTables};
use super::{Cube, CubeTensor};
use crate::ops;

/// Spherical codes with their radii on the device.
///
/// Radii are `f16`, or `f32` on a device that cannot store those: then they are rounded when they are read.
#[derive(Clone, Debug)]
pub struct CubeSpherical {
    pub(crate) shape: Shape,
    pub(crate) problem: SphericalProblem,
    /// Rows of codes, in `u32` words.
    pub(crate) codes: Handle,
    /// One a row.
    pub(crate) radii: Handle,
    pub(crate) radius: DType,
}

impl CubeSpherical {
    /// Shape of what was coded.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The format.
    pub fn format(&self) -> SphericalFormat {
        self.problem.format
    }

    /// Bytes of codes and radii on the device.
    pub fn bytes(&self) -> usize {
        self.problem.code_bytes() + self.problem.rows() * self.radius.bytes()
    }

    /// Bits of a channel.
    pub(crate) fn bits(&self) -> u32 {
        self.problem.format.bits.bits() as u32
    }

    /// 32-bit words of a row.
    pub(crate) fn row_words(&self) -> usize {
        self.problem.row_bytes() / 4
    }

    /// The codes as words of pages, `[pages, words]`: copies do not look at what they copy.
    pub(crate) fn code_rows(&self) -> CubeTensor {
        let pages = self.shape[0];
        let shape = [pages, self.words() / pages.max(1)].as_slice().into();
        CubeTensor { handle: self.codes.clone(), shape, dtype: DType::F32 }
    }

    /// The radii of pages, `[pages, rows]`.
    pub(crate) fn radius_rows(&self) -> CubeTensor {
        let pages = self.shape[0];
        let shape = [pages, self.problem.rows() / pages.max(1)].as_slice().into();
        CubeTensor { handle: self.radii.clone(), shape, dtype: self.radius }
    }

    /// 32-bit words of the codes.
    pub(crate) fn words(&self) -> usize {
        self.problem.code_bytes() / 4
    }
}

/// A frame on the device.
#[derive(Clone, Debug)]
pub struct CubeFrame {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// `f32` `[heads, head_dim]`.
    pub(crate) means: Handle,
    /// `f32` `[2, head_dim]`: signs, then scales of the rotation.
    pub(crate) channels: Handle,
    /// `f32`: levels of 1, 2, 3, 4 and 6 bits.
    pub(crate) levels: Handle,
}

/// Levels of all bits.
pub(crate) const LEVELS: usize = 2 + 4 + 8 + 16 + 64;

impl CubeFrame {
    fn holds(&self, what: &'static str, heads: usize, head_dim: usize) -> Result<(), CoreError> {
        SphericalFrame::extents(what, [heads, head_dim], [self.heads, self.head_dim])
    }
}

impl<R: Runtime> Cube<R> {
    fn radius_dtype(&self) -> DType {
        if self.supports(DType::F16) { DType::F16 } else { DType::F32 }
    }

    /// A frame of means that are on the device.
    pub(super) fn frame_in(&self, rotation: &HadamardRotation, means: Handle, heads: usize) -> CubeFrame {
        let floats = |values: &[f32]| self.client.create_from_slice(f32::as_bytes(values));
        let levels: Vec<f32> = SphericalBits::ALL.iter().flat_map(|bits| bits.levels()).copied().collect();
        debug_assert_eq!(levels.len(), LEVELS);
        let channels = [rotation.signs(), rotation.scales()].concat();
        CubeFrame {
            heads,
            head_dim: rotation.head_dim(),
            means,
            channels: floats(if channels.is_empty() { &[0.0] } else { &channels }),
            levels: floats(&levels),
        }
    }

    /// What writing the rows of `x` to a pool moves, once it is known that they can go there.
    fn check_written(
        &self,
        pool: &CubeSpherical,
        rows: &CubeIndices,
        x: &CubeTensor,
        frame: &CubeFrame,
    ) -> Result<Traffic, CoreError> {
        let problem = SphericalProblem::new(&x.shape, pool.problem.format)?;
        frame.holds("frame", problem.heads, problem.head_dim)?;
        problem.written_to(&pool.problem, &x.shape, rows.shape())?;
        let places = pool.problem.rows();
        if rows.len() > 0 && rows.bound > places {
            return Err(CoreError::Count { what: "rows", expected: rows.bound, got: places });
        }
        self.require(x.dtype)?;
        let written = problem.code_bytes() + problem.rows() * pool.radius.bytes();
        Ok(Traffic { written: written as u64, ..Traffic::default() })
    }

    pub(super) fn empty_spherical(&self, shape: Shape, problem: SphericalProblem) -> CubeSpherical {
        let radius = self.radius_dtype();
        CubeSpherical {
            codes: self.client.empty(problem.code_bytes().max(4)),
            // Whole words, as buffers are read.
            radii: self.client.empty((problem.rows() * radius.bytes()).next_multiple_of(4).max(4)),
            shape,
            problem,
            radius,
        }
    }
}

impl<R: Runtime> SphericalEngine for Cube<R> {
    type Spherical = CubeSpherical;
    type Frame = CubeFrame;

    fn upload_frame(&self, frame: &SphericalFrame) -> Result<CubeFrame, CoreError> {
        let means: Vec<f32> = frame.means().iter().map(|m| m.to_f32()).collect();
        let means = if means.is_empty() { vec![0.0] } else { means };
        let means = self.client.create_from_slice(f32::as_bytes(&means));
        Ok(self.frame_in(frame.rotation(), means, frame.heads()))
    }

    fn quantise_spherical(
        &self,
        x: &CubeTensor,
        frame: &CubeFrame,
        format: SphericalFormat,
    ) -> Result<CubeSpherical, CoreError> {
        let problem = SphericalProblem::new(&x.shape, format)?;
        frame.holds("frame", problem.heads, problem.head_dim)?;
        self.require(x.dtype)?;
        let codes = self.empty_spherical(x.shape.clone(), problem);
        if x.len() > 0 {
            ops::spherical::launch(&self.client, self.name, x, frame, &codes, None)?;
        }
        Ok(codes)
    }

    fn dequantise_spherical(
        &self,
        codes: &CubeSpherical,
        frame: &CubeFrame,
        dtype: DType,
    ) -> Result<CubeTensor, CoreError> {
        frame.holds("frame", codes.problem.heads, codes.problem.head_dim)?;
        self.require(dtype)?;
        let out = self.tensor(&codes.shape, dtype)?;
        if out.len() > 0 {
            ops::spherical::launch_inverse(&self.client, self.name, codes, frame, &out)?;
        }
        Ok(out)
    }

    fn upload_spherical(&self, codes: &HostSpherical) -> Result<CubeSpherical, CoreError> {
        let problem = codes.check()?;
        let radius = self.radius_dtype();
        let mut radii: Vec<u8> = match radius {
            DType::F16 => f16::as_bytes(&codes.radii).to_vec(),
            _ => codes.radii.iter().flat_map(|r| r.to_f32().to_le_bytes()).collect(),
        };
        radii.resize(radii.len().next_multiple_of(4).max(4), 0);
        let words = if codes.codes.is_empty() { &[0; 4] } else { &codes.codes[..] };
        Ok(CubeSpherical {
            shape: codes.shape.clone(),
            problem,
            codes: self.client.create_from_slice(words),
            radii: self.client.create_from_slice(&radii),
            radius,
        })
    }

    fn read_spherical(&self, codes: &CubeSpherical) -> Result<HostSpherical, CoreError> {
        let device = |message| CoreError::Device { engine: self.name, message };
        let handles = vec![codes.codes.clone(), codes.radii.clone()];
        let read = cubecl::future::block_on(self.client.read_async(handles));
        let read = read.map_err(|error| device(format!("{error:?}")))?;
        let rows = codes.problem.rows();
        let lens = [codes.problem.code_bytes(), rows * codes.radius.bytes()];
        let mut parts = read.iter().zip(lens).map(|(bytes, len)| bytes.get(..len));
        let mut next =
            || parts.next().flatten().ok_or_else(|| device("fewer codes came back than there are".into()));
        let (words, radii) = (next()?.to_vec(), next()?);
        self.traffic.add(Traffic { read_back: (lens[0] + lens[1]) as u64, ..Traffic::default() });
        let radii = match codes.radius {
            DType::F16 => f16::from_bytes(radii).to_vec(),
            _ => f32::from_bytes(radii).iter().map(|&r| f16::from_f32(r)).collect(),
        };
        Ok(HostSpherical { shape: codes.shape.clone(), format: codes.problem.format, codes: words, radii })
    }

    fn write_spherical(
        &self,
        pool: &mut CubeSpherical,
        rows: &CubeIndices,
        x: &CubeTensor,
        frame: &CubeFrame,
    ) -> Result<(), CoreError> {
        let written = self.check_written(pool, rows, x, frame)?;
        if x.len() > 0 {
            ops::spherical::launch(&self.client, self.name, x, frame, pool, Some(rows))?;
        }
        self.traffic.add(written);
        Ok(())
    }

    fn write_spherical_pair(
        &self,
        [k_pool, v_pool]: [&mut CubeSpherical; 2],
        rows: &CubeIndices,
        [k, v]: [&CubeTensor; 2],
        [k_frame, v_frame]: [&CubeFrame; 2],
    ) -> Result<(), CoreError> {
        let of_keys = self.check_written(k_pool, rows, k, k_frame)?;
        let of_values = self.check_written(v_pool, rows, v, v_frame)?;
        if k.len() > 0 {
            let (x, frames, pools) = ([k, v], [k_frame, v_frame], [&*k_pool, &*v_pool]);
            ops::spherical::launch_pair(&self.client, self.name, x, frames, pools, rows)?;
        }
        self.traffic.add(of_keys);
        self.traffic.add(of_values);
        Ok(())
    }

    fn decode_spherical(
        &self,
        q: &CubeTensor,
        (k, k_frame): (&CubeSpherical, &CubeFrame),
        (v, v_frame): (&CubeSpherical, &CubeFrame),
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let problem = self.decode_problem(q, &k.shape, &v.shape, tables)?;
        k_frame.holds("frame of keys", problem.kv_heads, problem.head_dim_k)?;
        v_frame.holds("frame of values", problem.kv_heads, problem.head_dim_v)?;
        self.require(q.dtype)?;
        let out = self.tensor(&[problem.sequences, problem.query_heads(), problem.head_dim_v], q.dtype)?;
        let lse = self.tensor(&[problem.sequences, problem.query_heads()], DType::F32)?;
        if out.len() > 0 {
            let args = ops::decode_spherical::Arguments {
                problem: &problem,
                tables,
                scale,
                q,
                k,
                k_frame,
                v,
                v_frame,
            };
            ops::decode_spherical::launch(&self.client, self.name, &args, &out, &lse)?;
        }
        Ok((out, lse))
    }
}
