//! Pages of codes on the device.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_codec::{HadamardRotation, SphericalBits, SphericalFormat, SphericalProblem};
use tether_core::{
    CodeFrames, CodeSpec, CoreError, DType, PageProblem, RowCodec, Side, TokenEngine, Traffic,
};

use super::launch::uploaded;
use super::{Cube, CubeFrame, CubeSpherical, CubeTables, CubeTensor};
use crate::kernels::rows_of_codes::{Coding, RowFormat};
use crate::ops::code_pages::{self, RowsOfCodes};
use crate::ops::{self, gather};

/// Seeds of the rotations of keys and of values.
const SEEDS: [u64; 2] = [0, 1];
const SIDES: [Side; 2] = [Side::Keys, Side::Values];
/// Channels of a value that share a scale under KIVI.
const KIVI_GROUP: u32 = 32;

/// One side of pages of codes.
#[derive(Clone, Debug)]
enum Stored {
    /// Rows of words, `[pages, words]`, and what goes beside them.
    Rows { format: RowFormat, codes: CubeTensor, beside: CubeTensor },
    /// Spherical codes, and where pages have means of their own, `f32` `[pages, head_dim]`.
    Spherical { pool: CubeSpherical, means: Option<CubeTensor>, frame: CubeFrame },
}

/// Pages of codes of keys and of values on the device.
#[derive(Clone, Debug)]
pub struct CubeCodePages {
    spec: CodeSpec,
    sides: [Stored; 2],
}

/// How rows are coded that are not spherical.
fn row_format(codec: RowCodec, side: Side, dim: usize, page: usize) -> Option<RowFormat> {
    let (coding, bits) = match codec {
        RowCodec::Half {} => (Coding::Half, 16),
        RowCodec::Int { bits, group } => (Coding::Channels(group as u32), bits),
        RowCodec::Kivi { bits } => match side {
            Side::Keys => (Coding::Tokens, bits),
            Side::Values => (Coding::Channels(KIVI_GROUP), bits),
        },
        RowCodec::SphericalPublished { tier } => {
            (Coding::Directions(tier.shape().0 as u32), tier.shape().1 as usize)
        }
        RowCodec::Spherical { .. } => return None,
    };
    Some(RowFormat { coding, bits: bits as u32, dim: dim as u32, page: page as u32 })
}

/// All pages are below `limit`.
fn below(what: &'static str, numbers: &[u32], limit: usize) -> Result<(), CoreError> {
    let bound = numbers.iter().max().map_or(0, |&number| number as usize + 1);
    if bound > limit { Err(CoreError::Count { what, expected: bound, got: limit }) } else { Ok(()) }
}

impl CubeCodePages {
    fn shape(&self, side: Side) -> [usize; 4] {
        [self.spec.pages, self.spec.page_size, 1, self.spec.head_dim(side)]
    }
}

impl<R: Runtime> Cube<R> {
    /// Pages that hold nothing.
    pub(super) fn new_code_pages(&self, spec: &CodeSpec) -> Result<CubeCodePages, CoreError> {
        spec.validate()?;
        let rotated = SIDES.map(|side| matches!(spec.codec(side), RowCodec::Spherical { .. }));
        let published = |side| matches!(spec.codec(side), RowCodec::SphericalPublished { .. });
        let mixed = rotated[0] != rotated[1] || spec.keys.frame_of_page() != spec.values.frame_of_page();
        if mixed && SIDES.into_iter().any(published) {
            let feature = "spherical codes beside trained directions";
            return Err(CoreError::Unsupported { engine: self.name, feature });
        }
        let side = |side: Side| -> Result<Stored, CoreError> {
            let (dim, codec) = (spec.head_dim(side), *spec.codec(side));
            if let Some(format) = row_format(codec, side, dim, spec.page_size) {
                let words = |words: usize| self.tensor(&[spec.pages, words.max(1)], DType::F32);
                let codes = words(spec.page_size * format.row_words() as usize)?;
                return Ok(Stored::Rows { format, codes, beside: words(format.page_words() as usize)? });
            }
            let RowCodec::Spherical { bits, .. } = codec else {
                return Err(CoreError::Unsupported { engine: self.name, feature: "codes of this kind" });
            };
            let bits = SphericalBits::from_bits(bits).unwrap_or(SphericalBits::Four);
            let shape = [spec.pages, spec.page_size, 1, dim];
            let problem = SphericalProblem::new(&shape, SphericalFormat::of(side, bits))?;
            // Where heads' means cannot go beside a call, each page has its own.
            let own = codec.frame_of_page() || mixed;
            let means = own.then(|| self.tensor(&[spec.pages, dim], DType::F32)).transpose()?;
            let rotation = HadamardRotation::new(dim, SEEDS[side as usize]);
            let frame = self.frame_in(&rotation, self.client.empty(4), 0);
            let pool = self.empty_spherical(shape.as_slice().into(), problem);
            Ok(Stored::Spherical { pool, means, frame })
        };
        Ok(CubeCodePages { spec: *spec, sides: [side(Side::Keys)?, side(Side::Values)?] })
    }

    pub(super) fn gathered_codes(
        &self,
        codes: &CubeCodePages,
        pages: &[u32],
    ) -> Result<CubeCodePages, CoreError> {
        below("pages", pages, codes.spec.pages)?;
        let spec = CodeSpec { pages: pages.len(), ..codes.spec };
        let indices = self.upload_indices(&[pages.len()], pages)?;
        let gather = |x: &CubeTensor| self.gather_pages(x, &indices);
        let side = |stored: &Stored| -> Result<Stored, CoreError> {
            Ok(match stored {
                Stored::Rows { format, codes, beside } => {
                    Stored::Rows { format: *format, codes: gather(codes)?, beside: gather(beside)? }
                }
                Stored::Spherical { pool, means, frame } => {
                    let (codes, radii) = (gather(&pool.code_rows())?, gather(&pool.radius_rows())?);
                    let mut shape = pool.shape.clone();
                    shape[0] = pages.len();
                    let problem = SphericalProblem::new(&shape, pool.problem.format)?;
                    let (codes, radii) = (codes.handle, radii.handle);
                    let pool = CubeSpherical { shape, problem, codes, radii, radius: pool.radius };
                    let means = means.as_ref().map(gather).transpose()?;
                    Stored::Spherical { pool, means, frame: frame.clone() }
                }
            })
        };
        Ok(CubeCodePages { spec, sides: [side(&codes.sides[0])?, side(&codes.sides[1])?] })
    }

    /// Means of rows `[rows, n, head_dim]`, `[n, head_dim]`, rounded to half precision.
    fn rounded_means(&self, x: &CubeTensor) -> Result<CubeTensor, CoreError> {
        let &[rows, n, dim] = x.shape.as_slice() else {
            return Err(CoreError::ShapeMismatch {
                what: "x",
                expected: [0, 0, 0].into(),
                got: x.shape().into(),
            });
        };
        let wide = CubeTensor { shape: [1, rows, n * dim].as_slice().into(), ..x.clone() };
        let means = CubeTensor { shape: [n, dim].as_slice().into(), ..self.row_means((&wide, rows), None)? };
        if means.len() > 0 {
            code_pages::round_to_half(&self.client, &means);
        }
        Ok(means)
    }

    pub(super) fn frames_of_codes(
        &self,
        codes: &CubeCodePages,
        side: Side,
        x: &CubeTensor,
    ) -> Result<Option<CubeTensor>, CoreError> {
        match *codes.spec.codec(side) {
            codec if codec.frame_len(codes.spec.head_dim(side)) == 0 => Ok(None),
            RowCodec::SphericalPublished { tier } => self.trained_directions(tier, x).map(Some),
            _ => self.rounded_means(x).map(Some),
        }
    }

    /// Directions of each head of rows `[rows, n, head_dim]`, trained on the host.
    fn trained_directions(
        &self,
        tier: tether_core::PublishedTier,
        x: &CubeTensor,
    ) -> Result<CubeTensor, CoreError> {
        use tether_core::{Engine, HostTensor, Readback};
        let read = self.read(&[x])?.wait()?;
        let (n, dim) = (x.shape[1], x.shape[2]);
        let rows = read[0].to_f32_vec();
        let mut directions = Vec::new();
        for head in 0..n {
            let own: Vec<f32> =
                rows.chunks_exact(n * dim).flat_map(|row| &row[head * dim..][..dim]).copied().collect();
            let books = tether_codec::comparison::SphericalCodebooks::train(tier, &own, dim)?;
            directions.extend_from_slice(books.directions());
        }
        self.upload(&HostTensor::from_f32(&[n, directions.len() / n.max(1)], directions)?)
    }

    pub(super) fn write_code_pages(
        &self,
        codes: &mut CubeCodePages,
        pages: &[u32],
        rows: [&CubeTensor; 2],
        frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError> {
        let n = pages.len();
        let (spec, size) = (codes.spec, codes.spec.page_size);
        spec.check_rows(n, &rows[0].shape, &rows[1].shape)?;
        below("pages", pages, spec.pages)?;
        for (side, x) in SIDES.into_iter().zip(rows) {
            spec.check_frame(side, n, frames.of(side).map(CubeTensor::shape))?;
            self.require(x.dtype)?;
        }
        if n == 0 {
            return Ok(());
        }
        let places = uploaded(&self.client, pages).0;
        for (side, x) in SIDES.into_iter().zip(rows) {
            let written = match &mut codes.sides[side as usize] {
                Stored::Rows { format, codes, beside } => {
                    let into = RowsOfCodes { format: *format, codes, beside, frames: frames.of(side) };
                    code_pages::write(&self.client, x, (&places, n), &into);
                    n * (size * format.row_words() as usize + format.page_words() as usize) * 4
                }
                Stored::Spherical { pool, means, frame } => {
                    let own = match (&means, frames.of(side)) {
                        (Some(_), Some(given)) => given.clone(),
                        (None, Some(given)) => given.clone(),
                        (_, None) => self.rounded_means(x)?,
                    };
                    if let Some(means) = means {
                        let at = self.upload_indices(&[n], pages)?;
                        self.write_rows(means, &at, &own)?;
                    }
                    let frame = CubeFrame { heads: n, means: own.handle.clone(), ..frame.clone() };
                    let row = |t: usize| pages.iter().map(move |page| page * size as u32 + t as u32);
                    let at: Vec<u32> = (0..size).flat_map(row).collect();
                    let at = self.upload_indices(&[size, n], &at)?;
                    ops::spherical::launch(&self.client, self.name, x, &frame, pool, Some(&at))?;
                    n * size * (pool.problem.row_bytes() + pool.radius.bytes())
                }
            };
            self.traffic.add(Traffic { written: written as u64, ..Traffic::default() });
        }
        Ok(())
    }

    pub(super) fn copy_rows_of_codes(
        &self,
        codes: &mut CubeCodePages,
        from: &[u32],
        to: &[u32],
    ) -> Result<(), CoreError> {
        let rows = codes.spec.pages * codes.spec.page_size;
        below("rows", from, rows)?;
        below("rows", to, rows)?;
        tether_core::checks::count("rows", from.len(), to.len())?;
        let feature = "copies of rows of codes that are not by row";
        let pools = codes.sides.each_ref().map(|side| match side {
            Stored::Spherical { pool, means: None, .. } => Ok([pool.code_rows(), pool.radius_rows()]),
            _ => Err(CoreError::Unsupported { engine: self.name, feature }),
        });
        let [keys, values] = pools;
        let (from, to) = (self.upload_indices(&[from.len()], from)?, self.upload_indices(&[to.len()], to)?);
        for pool in keys?.into_iter().chain(values?) {
            // Rows of pages, next to each other.
            let words = pool.len() / rows.max(1);
            let mut pool = CubeTensor { shape: [rows, words].as_slice().into(), ..pool };
            let moved = self.read_rows(&pool, &from)?;
            self.write_rows(&mut pool, &to, &moved)?;
        }
        Ok(())
    }

    pub(super) fn restored_codes(
        &self,
        codes: &CubeCodePages,
        pages: &[u32],
        frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[CubeTensor; 2], CoreError> {
        below("pages", pages, codes.spec.pages)?;
        self.require(dtype)?;
        let (n, size) = (pages.len(), codes.spec.page_size);
        for side in SIDES {
            codes.spec.check_frame(side, n, frames.of(side).map(CubeTensor::shape))?;
        }
        let places = uploaded(&self.client, pages).0;
        let side = |side: Side| -> Result<CubeTensor, CoreError> {
            let out = self.tensor(&[size, n, codes.spec.head_dim(side)], dtype)?;
            if out.len() == 0 {
                return Ok(out);
            }
            match &codes.sides[side as usize] {
                Stored::Rows { format, codes, beside } => {
                    let from = RowsOfCodes { format: *format, codes, beside, frames: frames.of(side) };
                    code_pages::restore(&self.client, &from, (&places, n), &out);
                }
                Stored::Spherical { pool, means, frame } => {
                    let means = match (means, frames.of(side)) {
                        (Some(means), _) => self.gather_pages(means, &self.upload_indices(&[n], pages)?)?,
                        (None, Some(given)) => given.clone(),
                        (None, None) => return Err(self.without_frame()),
                    };
                    let frame = CubeFrame { heads: n, means: means.handle, ..frame.clone() };
                    let row = |t: usize| pages.iter().map(move |page| page * size as u32 + t as u32);
                    let at: Vec<u32> = (0..size).flat_map(row).collect();
                    let gathered = self.rows_of_pool(pool, &at, n)?;
                    ops::spherical::launch_inverse(&self.client, self.name, &gathered, &frame, &out)?;
                }
            }
            Ok(out)
        };
        Ok([side(Side::Keys)?, side(Side::Values)?])
    }

    fn without_frame(&self) -> CoreError {
        CoreError::Unsupported { engine: self.name, feature: "codes about a mean that is not given" }
    }

    /// Rows `at` of a pool, as codes `[at.len() / n, n, head_dim]`.
    fn rows_of_pool(&self, pool: &CubeSpherical, at: &[u32], n: usize) -> Result<CubeSpherical, CoreError> {
        let rows = pool.problem.rows();
        let indices = self.upload_indices(&[at.len()], at)?;
        let read = |tensor: CubeTensor| -> Result<Handle, CoreError> {
            let words = tensor.len() / rows.max(1);
            let tensor = CubeTensor { shape: [rows, words].as_slice().into(), ..tensor };
            Ok(self.read_rows(&tensor, &indices)?.handle)
        };
        let shape = [at.len() / n.max(1), n, pool.problem.head_dim];
        let problem = SphericalProblem::new(&shape, pool.problem.format)?;
        let (codes, radii) = (read(pool.code_rows())?, read(pool.radius_rows())?);
        Ok(CubeSpherical { shape: shape.as_slice().into(), problem, codes, radii, radius: pool.radius })
    }

    pub(super) fn attend_to_codes(
        &self,
        q: &CubeTensor,
        codes: &CubeCodePages,
        frames: &CodeFrames<'_, Self>,
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let shapes = SIDES.map(|side| codes.shape(side));
        let problem = self.decode_problem(q, &shapes[0], &shapes[1], tables)?;
        self.require(q.dtype)?;
        for side in SIDES {
            codes.spec.check_frame(side, problem.kv_heads, frames.of(side).map(CubeTensor::shape))?;
        }
        let out = self.tensor(&[problem.sequences, problem.query_heads(), problem.head_dim_v], q.dtype)?;
        let lse = self.tensor(&[problem.sequences, problem.query_heads()], DType::F32)?;
        if out.len() == 0 {
            return Ok((out, lse));
        }
        match &codes.sides {
            [
                Stored::Rows { format: k_format, codes: k, beside: k_beside },
                Stored::Rows { format: v_format, codes: v, beside: v_beside },
            ] => {
                let keys = RowsOfCodes { format: *k_format, codes: k, beside: k_beside, frames: frames.keys };
                let values =
                    RowsOfCodes { format: *v_format, codes: v, beside: v_beside, frames: frames.values };
                let (asked, results) = ((&problem, tables, scale), [&out, &lse]);
                code_pages::attend(&self.client, self.name, asked, q, [&keys, &values], results)?;
                Ok((out, lse))
            }
            [
                Stored::Spherical { pool: k, means: None, frame: k_frame },
                Stored::Spherical { pool: v, means: None, frame: v_frame },
            ] => {
                let of_head = |frame: &CubeFrame, means: Option<&CubeTensor>| {
                    let means = means.ok_or_else(|| self.without_frame())?.handle.clone();
                    Ok(CubeFrame { heads: problem.kv_heads, means, ..frame.clone() })
                };
                let (k_frame, v_frame) = (of_head(k_frame, frames.keys)?, of_head(v_frame, frames.values)?);
                let args = ops::decode_spherical::Arguments {
                    problem: &problem,
                    tables,
                    scale,
                    q,
                    k,
                    k_frame: &k_frame,
                    v,
                    v_frame: &v_frame,
                };
                ops::decode_spherical::launch(&self.client, self.name, &args, &out, &lse)?;
                Ok((out, lse))
            }
            _ => self.attend_to_restored(q, codes, tables, scale),
        }
    }

    /// Attention to pages of two kinds, of which all are restored for as long as it takes.
    fn attend_to_restored(
        &self,
        q: &CubeTensor,
        codes: &CubeCodePages,
        tables: &CubeTables,
        scale: f32,
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let (pages, size) = (codes.spec.pages, codes.spec.page_size);
        let all: Vec<u32> = (0..pages as u32).collect();
        // Pages have means of their own, or need none.
        let given = |side| match &codes.sides[side as usize] {
            Stored::Spherical { means, .. } => {
                means.as_ref().filter(|_| !codes.spec.codec(side).frame_of_page())
            }
            Stored::Rows { .. } => None,
        };
        let frames = CodeFrames { keys: given(Side::Keys), values: given(Side::Values) };
        let [k, v] = self.restored_codes(codes, &all, &frames, q.dtype)?;
        // From `[page_size, pages, head_dim]` to pages.
        let row = |page: u32| (0..size as u32).map(move |t| t * pages as u32 + page);
        let rows: Vec<u32> = all.iter().flat_map(|&page| row(page)).collect();
        let rows = self.upload_indices(&[pages * size], &rows)?;
        let paged = |x: &CubeTensor| -> Result<CubeTensor, CoreError> {
            let dim = x.shape[2];
            let out = self.tensor(&[pages, size, 1, dim], x.dtype)?;
            let problem = PageProblem { pages: pages * size, page_len: dim, kept: pages * size };
            gather::launch_pages(&self.client, &problem, (x, &out), None, &rows);
            Ok(out)
        };
        self.decode(q, &paged(&k)?, &paged(&v)?, tables, scale)
    }

    pub(super) fn merged_attention(
        &self,
        (out, lse): (&CubeTensor, &CubeTensor),
        (other, other_lse): (&CubeTensor, &CubeTensor),
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        for (what, a, b) in [("output", out, other), ("log-sum-exps", lse, other_lse)] {
            if a.shape != b.shape {
                let (expected, got) = (a.shape().into(), b.shape().into());
                return Err(CoreError::ShapeMismatch { what, expected, got });
            }
            if a.dtype != b.dtype {
                return Err(CoreError::DTypeMismatch { what, expected: a.dtype, got: b.dtype });
            }
        }
        let merged = self.tensor(&out.shape, out.dtype)?;
        let merged_lse = self.tensor(&lse.shape, DType::F32)?;
        if merged.len() > 0 && lse.len() > 0 {
            code_pages::merge(&self.client, [out, lse], [other, other_lse], [&merged, &merged_lse]);
        }
        Ok((merged, merged_lse))
    }
}
