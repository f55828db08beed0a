//! What a device must do for step reuse.

use smallvec::SmallVec;

use crate::ReuseError;

/// A tensor's extents.
pub type Shape = SmallVec<[usize; 4]>;

/// How a tensor is cut, outermost axis first: `frames` equal parts, or `tokens` equal parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Frames.
    pub frames: usize,
    /// Tokens, those of all frames.
    pub tokens: usize,
}

/// A number to be reduced from one or two tensors; see [`Measure`](crate::Measure).
#[derive(Debug)]
pub enum Reduction<'a, T: ?Sized> {
    /// `mean |a|`.
    MeanAbs(&'a T),
    /// `mean |a - b|`.
    MeanAbsDiff(&'a T, &'a T),
    /// `mean |a - b| / mean |b|`; 0 when both are 0.
    RelL1(&'a T, &'a T),
    /// Mean over the grid's tokens of `|a|_2 / |b|_2`.
    TokenRatio(&'a T, &'a T),
    /// The relative L1 difference of neighbouring frames.
    FrameMotion(&'a T),
}

/// What corrected values are added to.
#[derive(Debug)]
pub enum Base<'a, T: ?Sized> {
    /// Nothing: the result replaces what is in the output.
    Nothing,
    /// A tensor.
    Tensor(&'a T),
    /// The output itself.
    InPlace,
}

/// Operations on tensors that reuse needs. Elements are `f32`, or are widened before anything is computed and rounded once when it is stored.
///
/// The same tensors on the same device give the same bits. Sums are accumulated in more than `f32`, pairwise, or in `f32` runs that are short
/// beside the tensor, in an order that does not depend on the number of threads. What is not a number in a tensor is not a number in the
/// signals.
pub trait ReuseEngine {
    /// A tensor as the model hands it over.
    type Tensor: ?Sized;
    /// A tensor that the cache owns.
    type Owned: std::borrow::Borrow<Self::Tensor> + std::borrow::BorrowMut<Self::Tensor> + std::fmt::Debug;
    /// What can go wrong, a [`ReuseError`] included.
    type Error: From<ReuseError> + std::error::Error;

    /// Extents.
    fn shape(&self, tensor: &Self::Tensor) -> Shape;

    /// Bytes that a cached tensor holds.
    fn bytes(&self, tensor: &Self::Owned) -> u64;

    /// All of a step's reductions with one wait.
    ///
    /// # Errors
    /// Shapes that differ or do not fit the grid, and what the device reports.
    fn measure(
        &self,
        reductions: &[Reduction<'_, Self::Tensor>],
        grid: Grid,
    ) -> Result<SmallVec<[f64; 4]>, Self::Error>;

    /// A copy.
    ///
    /// # Errors
    /// What the device reports.
    fn copy(&self, tensor: &Self::Tensor) -> Result<Self::Owned, Self::Error>;

    /// `into <- tensor`, of the same shape.
    ///
    /// # Errors
    /// Shapes that differ, and what the device reports.
    fn copy_into(&self, tensor: &Self::Tensor, into: &mut Self::Owned) -> Result<(), Self::Error>;

    /// `into <- output - input`, of the same shape.
    ///
    /// # Errors
    /// Shapes that differ, and what the device reports.
    fn difference(
        &self,
        output: &Self::Tensor,
        input: &Self::Tensor,
        into: &mut Self::Owned,
    ) -> Result<(), Self::Error>;

    /// A new value enters the ladder of backward differences: `D0' = value`, `D(j+1)' = (Dj' - Dj) / gap` for the first `known` old
    /// entries and as far as the ladder reaches.
    ///
    /// # Errors
    /// Shapes that differ, and what the device reports.
    fn climb(
        &self,
        value: &Self::Tensor,
        ladder: &mut [Self::Owned],
        known: usize,
        gap: f32,
    ) -> Result<(), Self::Error>;

    /// `out <- base + sum_j w_j t_j`, and then `(1 - a) out - b` where there is an `affine`, whose entry for element `i` is `i % len`.
    ///
    /// # Errors
    /// Shapes that differ, and what the device reports.
    fn combine(
        &self,
        base: Base<'_, Self::Tensor>,
        terms: &[(f32, &Self::Tensor)],
        affine: Option<(&[f32], &[f32])>,
        out: &mut Self::Tensor,
    ) -> Result<(), Self::Error>;
}
