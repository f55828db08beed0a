//! Buffers of a forward pass.

use tether_core::{DType, HostTensor};

use super::block::MOD_ROWS;
use super::config::TinyVideoConfig;
use super::time_embedding::TimeBuffers;
use crate::ModelError;

/// Every buffer that a forward pass needs, allocated once by [`TinyVideo::workspace`](super::TinyVideo::workspace).
///
/// A workspace carries nothing from one pass to the next but a count of the work done.
#[derive(Clone, Debug)]
pub struct Workspace {
    pub(super) time: TimeBuffers,
    /// Modulations of all blocks, `[layers, 6, dim]`.
    pub(super) modulations: Vec<f32>,
    /// The head's modulation, `[2, dim]`.
    pub(super) head_modulation: Vec<f32>,
    pub(super) residual: Vec<f32>,
    /// The residual stream where a run of blocks began, or before the blocks that a probe compares with.
    pub(super) span_start: Vec<f32>,
    /// What the first blocks added.
    pub(super) span_probe: Vec<f32>,
    /// Multiply-adds of linear layers so far.
    pub(super) multiply_adds: u64,
    pub(super) normed: Vec<f32>,
    pub(super) projected: Vec<f32>,
    pub(super) fused_qkv: Vec<f32>,
    pub(super) hidden: Vec<f32>,
    pub(super) q: HostTensor,
    pub(super) k: HostTensor,
    pub(super) v: HostTensor,
    pub(super) attended: HostTensor,
}

impl Workspace {
    pub(super) fn new(config: &TinyVideoConfig) -> Self {
        let tokens = config.chunk_tokens();
        let stream = || vec![0.0; tokens * config.dim];
        let heads = || {
            HostTensor::zeros(&[tokens, config.heads, config.head_dim], DType::F32)
                .expect("a loaded model's dimensions fit the address space")
        };
        Self {
            time: TimeBuffers::new(config),
            modulations: vec![0.0; config.layers * MOD_ROWS * config.dim],
            head_modulation: vec![0.0; 2 * config.dim],
            residual: stream(),
            span_start: Vec::new(),
            span_probe: Vec::new(),
            multiply_adds: 0,
            normed: stream(),
            projected: stream(),
            fused_qkv: vec![0.0; tokens * 3 * config.dim],
            hidden: vec![0.0; tokens * config.ffn],
            q: heads(),
            k: heads(),
            v: heads(),
            attended: heads(),
        }
    }
}

impl Workspace {
    /// Multiply-adds of the model's linear layers since this was made; attention is the caller's to count.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }
}

/// A work tensor's elements; they can only be missing when an attention swapped the tensor for another.
pub(super) fn elements<'a>(
    what: &'static str,
    tensor: &'a HostTensor,
    expected: usize,
) -> Result<&'a [f32], ModelError> {
    tensor.as_f32().filter(|x| x.len() == expected).ok_or(ModelError::WorkTensor { what, expected })
}

/// As [`elements`], for writing.
pub(super) fn elements_mut<'a>(
    what: &'static str,
    tensor: &'a mut HostTensor,
    expected: usize,
) -> Result<&'a mut [f32], ModelError> {
    tensor.as_f32_mut().filter(|x| x.len() == expected).ok_or(ModelError::WorkTensor { what, expected })
}
