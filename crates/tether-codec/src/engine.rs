//! The `CodecEngine` trait.

use std::fmt::Debug;

use tether_core::{CoreError, DType, TokenEngine};

use crate::{Format, HostCodes};

/// Quantisation on a device, and attention over quantised pages.
///
/// As in [`tether_core::Engine`], a method checks its arguments, queues its work and returns; one that returns an error has queued nothing.
pub trait CodecEngine: TokenEngine {
    /// Codes with their scales, on the device.
    type Codes: Debug;

    /// Quantises `x` `[.., heads, head_dim]`.
    ///
    /// # Errors
    /// Those of [`crate::CodeProblem::new`]; [`CoreError::NonFinite`] from engines that see it without waiting.
    fn quantise(&self, x: &Self::Tensor, format: Format) -> Result<Self::Codes, CoreError>;

    /// The numbers that `codes` stand for, in the shape that was quantised.
    ///
    /// # Errors
    /// [`CoreError::Unsupported`] for a dtype that the device lacks.
    fn dequantise(&self, codes: &Self::Codes, dtype: DType) -> Result<Self::Tensor, CoreError>;

    /// Copies codes to the device.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn upload_codes(&self, codes: &HostCodes) -> Result<Self::Codes, CoreError>;

    /// Copies codes to the host, and waits for them.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn read_codes(&self, codes: &Self::Codes) -> Result<HostCodes, CoreError>;

    /// [`TokenEngine::decode`] over pages of codes, both of [`crate::Grouping::Token`] and the same bits: pools that were quantised from
    /// `[pages, page_size, page_heads, head_dim]`.
    ///
    /// # Errors
    /// Those of [`TokenEngine::decode`]; [`CoreError::Unsupported`] for another grouping or unequal bits.
    fn decode_codes(
        &self,
        q: &Self::Tensor,
        k: &Self::Codes,
        v: &Self::Codes,
        tables: &Self::Tables,
        scale: f32,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;
}
