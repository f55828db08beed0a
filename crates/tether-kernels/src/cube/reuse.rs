//! Step reuse on the device: tensors stay there, and a step's signals come back together.

use cubecl::prelude::*;
use smallvec::SmallVec;
use tether_core::{CoreError, DType, Engine, Readback};
use tether_reuse::checks::{self, SMALLEST_DENOMINATOR};
use tether_reuse::{Base, Grid, Reduction, ReuseEngine, ReuseError, Shape};

use super::{Cube, CubeTensor};
use crate::kernels::reuse::SUMS;
use crate::ops::reuse::{self, Blueprint, Sums};

/// Why a device could not measure or correct.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CubeReuseError {
    /// The device, or a dtype.
    #[error(transparent)]
    Engine(#[from] CoreError),
    /// What does not fit together.
    #[error(transparent)]
    Reuse(#[from] ReuseError),
}

/// Signals whose sums have been queued and not been waited for.
#[derive(Debug)]
pub struct QueuedSignals {
    partials: Option<CubeTensor>,
    answers: SmallVec<[Answer; 4]>,
}

/// Columns of what [`Sums::Magnitudes`] leaves.
const APART: usize = 0;
const OF_A: usize = 1;
const OF_B: usize = 2;

/// A launch's part of the partial sums.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: usize,
    len: usize,
}

/// How a signal is made of partial sums.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// A column's sum over so many elements.
    Mean(Part, usize, usize),
    /// Distance over the sum of columns.
    Relative(Part, &'static [usize]),
    /// The sum of all over so many tokens.
    TokenMean(Part, usize),
}

impl Answer {
    fn of(self, partials: &[f32]) -> f64 {
        // The order is that of cubes: the same for the same sizes.
        let column = |part: Part, column: usize| -> f64 {
            let columns = partials[part.first..part.first + part.len].iter().skip(column);
            columns.step_by(SUMS as usize).copied().map(f64::from).sum()
        };
        match self {
            Self::Mean(part, of, elements) => column(part, of) / elements.max(1) as f64,
            Self::Relative(part, under) => {
                checks::ratio(column(part, APART), under.iter().map(|&of| column(part, of)).sum())
            }
            Self::TokenMean(part, tokens) => {
                let all = partials[part.first..part.first + part.len].iter();
                all.copied().map(f64::from).sum::<f64>() / tokens as f64
            }
        }
    }
}

/// A step's launches: tensors that are named several times are read once.
struct Passes<'a, 'e, R: Runtime> {
    engine: &'e Cube<R>,
    all: SmallVec<[(Sums<'a>, Blueprint, Part); 4]>,
    partials: usize,
}

impl<'a, R: Runtime> Passes<'a, '_, R> {
    fn add(&mut self, sums: Sums<'a>) -> Result<Part, CoreError> {
        let blueprint = sums.blueprint(&self.engine.client)?;
        let part = Part { first: self.partials, len: blueprint.partials() };
        self.partials += part.len;
        self.all.push((sums, blueprint, part));
        Ok(part)
    }

    /// The sums over a pair, and the column of `b`'s own.
    fn pair(
        &mut self,
        a: &'a CubeTensor,
        b: &'a CubeTensor,
    ) -> Result<(Part, &'static [usize]), CubeReuseError> {
        let known = self.all.iter().find_map(|(sums, _, part)| match *sums {
            Sums::Magnitudes { a: x, b: Some(y), ahead: 0, .. }
                if std::ptr::eq(x, a) && std::ptr::eq(y, b) =>
            {
                Some((*part, &[OF_B][..]))
            }
            Sums::Magnitudes { a: x, b: Some(y), ahead: 0, .. }
                if std::ptr::eq(x, b) && std::ptr::eq(y, a) =>
            {
                Some((*part, &[OF_A][..]))
            }
            _ => None,
        });
        if let Some(known) = known {
            return Ok(known);
        }
        self.engine.fits("a signal's second tensor", b, a)?;
        let part = self.add(Sums::Magnitudes { a, b: Some(b), ahead: 0, len: a.len() })?;
        Ok((part, &[OF_B]))
    }

    /// The sum over one tensor, which a pair that it is part of has anyway, and its column.
    fn single(&mut self, a: &'a CubeTensor) -> Result<(Part, usize), CoreError> {
        let known = self.all.iter().find_map(|(sums, _, part)| match *sums {
            Sums::Magnitudes { a: x, ahead: 0, .. } if std::ptr::eq(x, a) => Some((*part, OF_A)),
            Sums::Magnitudes { b: Some(y), ahead: 0, .. } if std::ptr::eq(y, a) => Some((*part, OF_B)),
            _ => None,
        });
        match known {
            Some(known) => Ok(known),
            None => Ok((self.add(Sums::Magnitudes { a, b: None, ahead: 0, len: a.len() })?, OF_A)),
        }
    }
}

impl<R: Runtime> Cube<R> {
    /// Queues what [`ReuseEngine::measure`] waits for: nothing has been read when this returns.
    ///
    /// # Errors
    /// Shapes that differ or do not fit the grid, dtypes that differ or that the device does not have.
    pub fn queue_signals(
        &self,
        reductions: &[Reduction<'_, CubeTensor>],
        grid: Grid,
    ) -> Result<QueuedSignals, CubeReuseError> {
        let mut passes = Passes { engine: self, all: SmallVec::new(), partials: 0 };
        for reduction in reductions {
            match *reduction {
                Reduction::MeanAbs(a) | Reduction::FrameMotion(a) | Reduction::TokenRatio(a, _) => {
                    self.require(a.dtype)?;
                }
                // First, so that a tensor alone finds the pair that it is part of.
                Reduction::MeanAbsDiff(a, b) | Reduction::RelL1(a, b) => {
                    self.require(a.dtype)?;
                    passes.pair(a, b)?;
                }
            }
        }
        let mut answers = SmallVec::new();
        for reduction in reductions {
            answers.push(match *reduction {
                Reduction::MeanAbs(a) => {
                    let (part, column) = passes.single(a)?;
                    Answer::Mean(part, column, a.len())
                }
                Reduction::MeanAbsDiff(a, b) => Answer::Mean(passes.pair(a, b)?.0, APART, a.len()),
                Reduction::RelL1(a, b) => {
                    let (part, under) = passes.pair(a, b)?;
                    Answer::Relative(part, under)
                }
                Reduction::TokenRatio(a, b) => {
                    self.fits("a signal's second tensor", b, a)?;
                    let (tokens, smallest) = (grid.tokens, SMALLEST_DENOMINATOR as f32);
                    let width = checks::part("token ratio", a.len(), tokens)?;
                    let part = passes.add(Sums::TokenRatios { a, b, tokens, width, smallest })?;
                    Answer::TokenMean(part, tokens)
                }
                Reduction::FrameMotion(a) => {
                    let ahead = checks::part("frame motion", a.len(), grid.frames)?;
                    let len = a.len() - ahead;
                    let part = passes.add(Sums::Magnitudes { a, b: Some(a), ahead, len })?;
                    Answer::Relative(part, &[OF_A, OF_B])
                }
            });
        }
        if passes.partials == 0 {
            return Ok(QueuedSignals { partials: None, answers });
        }
        let partials = self.tensor(&[passes.partials], DType::F32)?;
        for (sums, blueprint, part) in &passes.all {
            sums.launch(&self.client, blueprint, &partials, part.first);
        }
        Ok(QueuedSignals { partials: Some(partials), answers })
    }

    /// Waits for queued signals, with one small read.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    pub fn signals(&self, queued: &QueuedSignals) -> Result<SmallVec<[f64; 4]>, CubeReuseError> {
        let read = match &queued.partials {
            Some(partials) => self.read(&[partials])?.wait()?,
            None => Vec::new(),
        };
        let partials = read.first().and_then(|t| t.as_f32()).unwrap_or_default();
        Ok(queued.answers.iter().map(|answer| answer.of(partials)).collect())
    }

    /// `tensor` has the shape and dtype of `like`.
    fn fits(&self, what: &'static str, tensor: &CubeTensor, like: &CubeTensor) -> Result<(), CubeReuseError> {
        checks::same_shape(what, &tensor.shape, &like.shape)?;
        if tensor.dtype != like.dtype {
            let (expected, got) = (like.dtype, tensor.dtype);
            return Err(CoreError::DTypeMismatch { what, expected, got }.into());
        }
        Ok(self.require(tensor.dtype)?)
    }
}

/// Tensors keep their dtype when they are cached; everything is computed in `f32`. Calls are queued, and only [`measure`](Self::measure)
/// waits.
///
/// Sums are `f32` in a thread and a cube, over a fixed share of the tensor, and `f64` over cubes. A length of a token, and a sum of a cube,
/// that is beyond `f32` is infinite: the signal is then not a number or infinite, and a step that looks at it is computed.
impl<R: Runtime> ReuseEngine for Cube<R> {
    type Tensor = CubeTensor;
    type Owned = CubeTensor;
    type Error = CubeReuseError;

    fn shape(&self, tensor: &CubeTensor) -> Shape {
        Shape::from_slice(&tensor.shape)
    }

    fn bytes(&self, tensor: &CubeTensor) -> u64 {
        (tensor.len() * tensor.dtype.bytes()) as u64
    }

    fn measure(
        &self,
        reductions: &[Reduction<'_, CubeTensor>],
        grid: Grid,
    ) -> Result<SmallVec<[f64; 4]>, CubeReuseError> {
        self.signals(&self.queue_signals(reductions, grid)?)
    }

    fn copy(&self, tensor: &CubeTensor) -> Result<CubeTensor, CubeReuseError> {
        self.require(tensor.dtype)?;
        let mut copy = self.tensor(&tensor.shape, tensor.dtype)?;
        self.copy_into(tensor, &mut copy)?;
        Ok(copy)
    }

    fn copy_into(&self, tensor: &CubeTensor, into: &mut CubeTensor) -> Result<(), CubeReuseError> {
        self.fits("a copy", into, tensor)?;
        if tensor.len() > 0 {
            self.copy_prefix(tensor.dtype, &tensor.handle, &into.handle, tensor.len());
        }
        Ok(())
    }

    fn difference(
        &self,
        output: &CubeTensor,
        input: &CubeTensor,
        into: &mut CubeTensor,
    ) -> Result<(), CubeReuseError> {
        self.fits("a place's input", input, output)?;
        self.combine(Base::Nothing, &[(1.0, output), (-1.0, input)], None, into)
    }

    fn climb(
        &self,
        value: &CubeTensor,
        ladder: &mut [CubeTensor],
        known: usize,
        gap: f32,
    ) -> Result<(), CubeReuseError> {
        for rung in &*ladder {
            self.fits("a difference", rung, value)?;
        }
        let changed = ladder.len().min(known.saturating_add(1));
        Ok(reuse::launch_climb(&self.client, self.name, value, &ladder[..changed], gap)?)
    }

    fn combine(
        &self,
        base: Base<'_, CubeTensor>,
        terms: &[(f32, &CubeTensor)],
        affine: Option<(&[f32], &[f32])>,
        out: &mut CubeTensor,
    ) -> Result<(), CubeReuseError> {
        self.require(out.dtype)?;
        for (_, term) in terms {
            self.fits("a term", term, out)?;
        }
        let mut all: SmallVec<[(f32, &CubeTensor); 6]> = SmallVec::new();
        if let Base::Tensor(base) = base {
            self.fits("the input", base, out)?;
            all.push((1.0, base));
        }
        all.extend(terms.iter().copied());
        let onto = matches!(base, Base::InPlace);
        let (slopes, offsets) = match affine {
            Some((a, b)) => {
                checks::affine(out.len(), a.len(), b.len())?;
                (a.iter().map(|a| 1.0 - a).collect(), b)
            }
            None => (vec![1.0], &[0.0][..]),
        };
        Ok(reuse::launch_weighted_sum(&self.client, self.name, &all, onto, (&slopes, offsets), out)?)
    }
}
