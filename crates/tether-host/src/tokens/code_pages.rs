//! Pages of codes in host memory, and attention over them.

use std::sync::Arc;

use tether_codec::comparison::SphericalCodebooks;
use tether_codec::{CodedRows, HadamardRotation, RowFrame, SphericalFrame};
use tether_core::{
    CodeFrames, CodeSpec, CoreError, DType, DecodeProblem, EMPTY_LSE, HostTensor, RowCodec, Side, TensorData,
    merge_partial,
};

use super::HostTables;
use super::decode::attend_to_lists;
use super::paged::Rows;
use super::restore_rows::restore;
use crate::{Host, PagedQueries};

/// Seeds of the rotations of keys and of values.
const SEEDS: [u64; 2] = [0, 1];
const SIDES: [Side; 2] = [Side::Keys, Side::Values];

/// One side of a page.
#[derive(Clone, Debug)]
struct CodedPage {
    frame: Arc<RowFrame>,
    rows: CodedRows,
}

/// Pages of codes of keys and of values. Pages that nobody wrote to take no memory.
#[derive(Clone, Debug)]
pub struct HostCodePages {
    spec: CodeSpec,
    rotations: [Arc<HadamardRotation>; 2],
    pages: Vec<Option<Arc<[CodedPage; 2]>>>,
}

impl HostCodePages {
    pub(super) fn new(spec: &CodeSpec) -> Result<Self, CoreError> {
        spec.validate()?;
        let rotation =
            |side: Side| Arc::new(HadamardRotation::new(spec.head_dim(side), SEEDS[side as usize]));
        Ok(Self { spec: *spec, rotations: SIDES.map(rotation), pages: vec![None; spec.pages] })
    }

    pub(super) fn gathered(&self, pages: &[u32]) -> Result<Self, CoreError> {
        below("pages", pages, self.pages.len())?;
        let pages: Vec<_> = pages.iter().map(|&page| self.pages[page as usize].clone()).collect();
        let spec = CodeSpec { pages: pages.len(), ..self.spec };
        Ok(Self { spec, rotations: self.rotations.clone(), pages })
    }

    /// Frames of a side, of each of `count` pages or heads; one for all where codes carry all that they need.
    fn frames(
        &self,
        side: Side,
        count: usize,
        numbers: Option<&HostTensor>,
    ) -> Result<Vec<Arc<RowFrame>>, CoreError> {
        self.spec.check_frame(side, count, numbers.map(HostTensor::shape))?;
        let head_dim = self.spec.head_dim(side);
        let codec = self.spec.codec(side);
        let len = codec.frame_len(head_dim);
        let Some(numbers) = numbers.filter(|_| len > 0) else {
            let plain = Arc::new(RowFrame::Plain { head_dim });
            return Ok(std::iter::repeat_n(plain, count).collect());
        };
        let made = |numbers: &[f32]| -> Result<Arc<RowFrame>, CoreError> {
            Ok(Arc::new(match *codec {
                RowCodec::SphericalPublished { tier } => {
                    RowFrame::Published(SphericalCodebooks::of(tier, head_dim, numbers)?)
                }
                _ => {
                    let rotation = Arc::clone(&self.rotations[side as usize]);
                    RowFrame::Spherical(SphericalFrame::in_rotation(1, numbers, rotation)?)
                }
            }))
        };
        let numbers = numbers.to_f32_vec();
        let mut frames: Vec<Arc<RowFrame>> = Vec::with_capacity(count);
        for (i, own) in numbers.chunks_exact(len).enumerate() {
            // Pages of a head follow each other, and have one frame.
            let before = i.checked_sub(1).filter(|&b| numbers[b * len..][..len] == *own);
            frames.push(match before {
                Some(before) => Arc::clone(&frames[before]),
                None => made(own)?,
            });
        }
        Ok(frames)
    }

    /// What rows `x` `[rows, n, head_dim]` are relative to, `[n, frame_len]`.
    pub(super) fn frames_of(&self, side: Side, x: &HostTensor) -> Result<Option<HostTensor>, CoreError> {
        let dim = self.spec.head_dim(side);
        let len = self.spec.codec(side).frame_len(dim);
        let n = heads_of(x, dim)?;
        if len == 0 {
            return Ok(None);
        }
        let mut numbers = Vec::with_capacity(n * len);
        for head in 0..n {
            let rows = rows_of_head(x, n, head, dim);
            match RowFrame::of(self.spec.codec(side), &rows, &self.rotations[side as usize])? {
                RowFrame::Published(books) => numbers.extend_from_slice(books.directions()),
                frame => numbers.extend(frame.mean()),
            }
        }
        HostTensor::from_f32(&[n, len], numbers).map(Some)
    }

    pub(super) fn write(
        &mut self,
        pages: &[u32],
        rows: [&HostTensor; 2],
        frames: &CodeFrames<'_, Host>,
    ) -> Result<(), CoreError> {
        let n = pages.len();
        self.spec.check_rows(n, rows[0].shape(), rows[1].shape())?;
        below("pages", pages, self.pages.len())?;
        let side = |side: Side| -> Result<Vec<CodedPage>, CoreError> {
            let (x, dim) = (rows[side as usize], self.spec.head_dim(side));
            let frames = self.frames(side, n, frames.of(side))?;
            let (codec, rotation) = (self.spec.codec(side), &self.rotations[side as usize]);
            let page = |(page, frame): (usize, Arc<RowFrame>)| {
                let rows = rows_of_head(x, n, page, dim);
                let frame = match codec.frame_of_page() {
                    true => Arc::new(RowFrame::of(codec, &rows, rotation)?),
                    false => frame,
                };
                Ok(CodedPage { rows: CodedRows::coded(codec, side, &frame, &rows)?, frame })
            };
            frames.into_iter().enumerate().map(page).collect()
        };
        let (keys, values) = (side(Side::Keys)?, side(Side::Values)?);
        for (&page, (k, v)) in pages.iter().zip(keys.into_iter().zip(values)) {
            self.pages[page as usize] = Some(Arc::new([k, v]));
        }
        Ok(())
    }

    pub(super) fn copy_rows(&mut self, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        let rows = self.pages.len() * self.spec.page_size;
        below("rows", from, rows)?;
        below("rows", to, rows)?;
        tether_core::checks::count("rows", from.len(), to.len())?;
        let unsupported = || {
            let feature = "copies of rows of codes that are not spherical, or of pages that hold nothing";
            CoreError::Unsupported { engine: "the host", feature }
        };
        let size = self.spec.page_size;
        let mut made = self.pages.clone();
        for (&from, &to) in from.iter().zip(to) {
            let (from, to) = (from as usize, to as usize);
            let source = self.pages[from / size].clone().ok_or_else(unsupported)?;
            let target = Arc::make_mut(made[to / size].as_mut().ok_or_else(unsupported)?);
            for (target, source) in target.iter_mut().zip(source.iter()) {
                let (CodedRows::Spherical(target), CodedRows::Spherical(source)) =
                    (&mut target.rows, &source.rows)
                else {
                    return Err(unsupported());
                };
                target.copy_row(source, from % size, to % size)?;
            }
        }
        self.pages = made;
        Ok(())
    }

    pub(super) fn restored(
        &self,
        pages: &[u32],
        frames: &CodeFrames<'_, Host>,
        dtype: DType,
    ) -> Result<[HostTensor; 2], CoreError> {
        below("pages", pages, self.pages.len())?;
        let (n, size) = (pages.len(), self.spec.page_size);
        let side = |side: Side| -> Result<HostTensor, CoreError> {
            let dim = self.spec.head_dim(side);
            self.frames(side, n, frames.of(side))?;
            let mut out = vec![0f32; size * n * dim];
            for (place, &page) in pages.iter().enumerate() {
                let Some(coded) = &self.pages[page as usize] else { continue };
                let CodedPage { frame, rows } = &coded[side as usize];
                for (token, row) in rows.restored(frame)?.chunks_exact(dim).enumerate() {
                    out[(token * n + place) * dim..][..dim].copy_from_slice(row);
                }
            }
            HostTensor::new(&[size, n, dim], TensorData::narrowed(dtype, &out))
        };
        Ok([side(Side::Keys)?, side(Side::Values)?])
    }

    /// Attention over lists of pages.
    pub(super) fn attend(
        &self,
        q: &HostTensor,
        frames: &CodeFrames<'_, Host>,
        tables: &HostTables,
        (scale, parallel): (f32, bool),
    ) -> Result<(HostTensor, HostTensor), CoreError> {
        let shape = |side: Side| [self.pages.len(), self.spec.page_size, 1, self.spec.head_dim(side)];
        let problem = tables.problem(q.shape(), &shape(Side::Keys), &shape(Side::Values))?;
        let &DecodeProblem { kv_heads, group, head_dim_k: dk, head_dim_v: dv, .. } = &problem;
        let own = SIDES.map(|side| self.spec.codec(side).frame_of_page());
        let k_frames = self.frames(Side::Keys, kv_heads, frames.keys)?;
        let v_frames = self.frames(Side::Values, kv_heads, frames.values)?;
        let head = |row: usize| row % (kv_heads * group) / group;
        // Queries are taken to the coordinates of codes once, and sums brought back once.
        let mut entered = q.to_f32_vec();
        let mut shared = vec![0f32; entered.len() / dk];
        for (row, (q, shared)) in entered.chunks_exact_mut(dk).zip(&mut shared).enumerate() {
            *shared = k_frames[head(row)].enter(q).first().copied().unwrap_or(0.0) * scale;
        }
        let entered = HostTensor::from_f32(q.shape(), entered)?;
        let queries = PagedQueries { q: &entered, scale, parallel };
        let (out, lse) = attend_to_lists(&problem, tables, &queries, &Codes { pages: self, own }, None)?;
        let (mut out, mut lse) = (out.into_f32_vec(), lse.into_f32_vec());
        for (row, (out, lse)) in out.chunks_exact_mut(dv).zip(&mut lse).enumerate() {
            if *lse > EMPTY_LSE {
                v_frames[head(row)].leave(out);
                *lse += shared[row];
            }
        }
        let shape = [problem.sequences, problem.query_heads(), dv];
        let out = HostTensor::new(&shape, TensorData::narrowed(q.dtype(), &out))?;
        Ok((out, HostTensor::from_f32(&shape[..2], lse)?))
    }
}

/// Rows of pages, in the coordinates of their heads' frames.
struct Codes<'a> {
    pages: &'a HostCodePages,
    /// Sides whose pages have frames of their own, out of which rows are brought.
    own: [bool; 2],
}

impl Rows for Codes<'_> {
    fn load(&self, side: Side, row: usize, into: &mut [f32]) {
        let spec = &self.pages.spec;
        let (mut row, size, dim) = (row, spec.page_size, spec.head_dim(side));
        let mut rest = into;
        while !rest.is_empty() {
            let count = (size - row % size).min(rest.len() / dim);
            let (now, later) = rest.split_at_mut(count * dim);
            // Pages that nobody wrote hold zeros; what is stored was made in its frame, and is as long as it says.
            let page = self.pages.pages[row / size].as_ref().map(|page| &page[side as usize]);
            match page.map(|page| (page, restore(&page.rows, &page.frame, row % size, now))) {
                Some((page, Ok(()))) if self.own[side as usize] => page.frame.leave(now),
                Some((_, Ok(()))) => {}
                _ => now.fill(0.0),
            }
            (rest, row) = (later, row + count);
        }
    }
}

/// All numbers are below `limit`.
fn below(what: &'static str, numbers: &[u32], limit: usize) -> Result<(), CoreError> {
    let bound = numbers.iter().max().map_or(0, |&number| number as usize + 1);
    if bound > limit { Err(CoreError::Count { what, expected: bound, got: limit }) } else { Ok(()) }
}

/// Heads of `x` `[rows, heads, head_dim]`.
fn heads_of(x: &HostTensor, dim: usize) -> Result<usize, CoreError> {
    match *x.shape() {
        [_, heads, got] if got == dim => Ok(heads),
        _ => {
            let expected = [0, 0, dim].into();
            Err(CoreError::ShapeMismatch { what: "x", expected, got: x.shape().into() })
        }
    }
}

/// The rows of one of `n` heads of `x` `[rows, n, dim]`, next to each other.
fn rows_of_head(x: &HostTensor, n: usize, head: usize, dim: usize) -> Vec<f32> {
    let rows = x.len() / (n * dim).max(1);
    let mut out = vec![0f32; rows * dim];
    for (row, into) in out.chunks_exact_mut(dim).enumerate() {
        x.data().widen_into((row * n + head) * dim, into);
    }
    out
}

/// Attention to both of two sets of tokens.
pub(super) fn merged(
    (out, lse): (&HostTensor, &HostTensor),
    (other_out, other_lse): (&HostTensor, &HostTensor),
) -> Result<(HostTensor, HostTensor), CoreError> {
    for (what, a, b) in [("output", out, other_out), ("log-sum-exps", lse, other_lse)] {
        let ((expected, dtype), (got, got_dtype)) = ((a.shape(), a.dtype()), (b.shape(), b.dtype()));
        if expected != got {
            return Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() });
        }
        if dtype != got_dtype {
            return Err(CoreError::DTypeMismatch { what, expected: dtype, got: got_dtype });
        }
    }
    let (mut sums, mut all) = (out.to_f32_vec(), lse.to_f32_vec());
    merge_partial((&mut sums, &mut all), (&other_out.to_f32_vec(), &other_lse.to_f32_vec()))?;
    Ok((
        HostTensor::new(out.shape(), TensorData::narrowed(out.dtype(), &sums))?,
        HostTensor::from_f32(lse.shape(), all)?,
    ))
}
