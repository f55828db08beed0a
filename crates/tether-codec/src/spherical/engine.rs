//! The `SphericalEngine` trait.

use std::fmt::Debug;

use tether_core::{CoreError, DType, TokenEngine};

use super::{HostSpherical, SphericalFormat, SphericalFrame};

/// Spherical codes on a device, and attention over pages of them.
///
/// As in [`tether_core::Engine`], a method checks its arguments, queues its work and returns; one that returns an error has queued nothing.
pub trait SphericalEngine: TokenEngine {
    /// Codes with their radii, on the device.
    type Spherical: Debug;
    /// A frame on the device.
    type Frame: Debug;

    /// Copies a frame to the device.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn upload_frame(&self, frame: &SphericalFrame) -> Result<Self::Frame, CoreError>;

    /// Codes `x` `[.., heads, head_dim]`, head by head, in a frame of as many heads.
    ///
    /// # Errors
    /// Those of [`super::SphericalProblem::new`] and [`super::SphericalProblem::suits`]; [`CoreError::NonFinite`] from engines that see it without
    /// waiting, of a number of `x` or of a radius that no `f16` holds.
    fn quantise_spherical(
        &self,
        x: &Self::Tensor,
        frame: &Self::Frame,
        format: SphericalFormat,
    ) -> Result<Self::Spherical, CoreError>;

    /// The numbers that `codes` stand for, in the shape that was coded.
    ///
    /// # Errors
    /// Those of [`super::SphericalProblem::suits`]; [`CoreError::Unsupported`] for a dtype that the device lacks.
    fn dequantise_spherical(
        &self,
        codes: &Self::Spherical,
        frame: &Self::Frame,
        dtype: DType,
    ) -> Result<Self::Tensor, CoreError>;

    /// Copies codes to the device.
    ///
    /// # Errors
    /// Those of [`HostSpherical::check`], [`CoreError::Device`].
    fn upload_spherical(&self, codes: &HostSpherical) -> Result<Self::Spherical, CoreError>;

    /// Copies codes to the host, and waits for them.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn read_spherical(&self, codes: &Self::Spherical) -> Result<HostSpherical, CoreError>;

    /// Codes the rows of `x` `[.., heads, head_dim]` into rows `rows[..]` (of the shape of `x` without its last extent) of a pool
    /// `[.., head_dim]`. The rows must differ from each other. Row `i` of `x` is of head `i % heads` of the frame; the pool's own heads are not looked at.
    ///
    /// # Errors
    /// As [`SphericalEngine::quantise_spherical`]; [`CoreError::ShapeMismatch`] for rows of another shape or a pool of other heads,
    /// [`CoreError::Count`] for a row outside the pool.
    fn write_spherical(
        &self,
        pool: &mut Self::Spherical,
        rows: &Self::Indices,
        x: &Self::Tensor,
        frame: &Self::Frame,
    ) -> Result<(), CoreError>;

    /// [`SphericalEngine::write_spherical`] of the keys and of the values of the same tokens, to the same rows of their pools: what a decoder does with new
    /// tokens, in one launch where the engine can. Bits, radii and head dimensions may differ.
    ///
    /// # Errors
    /// Those of [`SphericalEngine::write_spherical`] for either; then neither pool has changed.
    fn write_spherical_pair(
        &self,
        pools: [&mut Self::Spherical; 2],
        rows: &Self::Indices,
        x: [&Self::Tensor; 2],
        frames: [&Self::Frame; 2],
    ) -> Result<(), CoreError>;

    /// [`TokenEngine::decode`] over pages of codes: pools of shape `[pages, page_size, page_heads, head_dim]`, and frames of all key heads (head `g * page_heads + i`
    /// is the `i`-th of group `g`). Output and log-sum-exp are those of attention over what the codes stand for, the means among it, so results merge with those
    /// of other pools of the head, coded with other bits or not at all.
    ///
    /// # Errors
    /// Those of [`TokenEngine::decode`]; [`CoreError::ShapeMismatch`] for frames of other heads; [`CoreError::Unsupported`] for keys and values of unequal
    /// bits, from engines that do not mix them.
    fn decode_spherical(
        &self,
        q: &Self::Tensor,
        k: (&Self::Spherical, &Self::Frame),
        v: (&Self::Spherical, &Self::Frame),
        tables: &Self::Tables,
        scale: f32,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;
}
