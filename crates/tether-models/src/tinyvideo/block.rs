//! One transformer block's weights.

use super::checkpoint::Checkpoint;
use super::config::TinyVideoConfig;
use crate::ModelError;
use crate::linear::Linear;
use crate::norm::{Affine, QkvNorm};

/// Rows of a modulation table: shift, scale and gate of the attention, then of the feed-forward network.
pub(super) const MOD_ROWS: usize = 6;

#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) modulation: Vec<f32>,
    pub(super) qkv: Linear,
    pub(super) q_norm: Vec<f32>,
    pub(super) k_norm: Vec<f32>,
    pub(super) attention_out: Linear,
    pub(super) ffn_in: Linear,
    pub(super) ffn_out: Linear,
}

impl Block {
    pub(super) fn load(
        file: &mut Checkpoint<'_>,
        config: &TinyVideoConfig,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let dim = config.dim;
        let name = |part: &str| format!("blocks.{layer}.{part}");
        Ok(Self {
            modulation: file.take(&name("mod"), &[MOD_ROWS, dim])?,
            qkv: file.stacked(&["q", "k", "v"].map(name), dim)?,
            q_norm: file.take(&name("nq.weight"), &[dim])?,
            k_norm: file.take(&name("nk.weight"), &[dim])?,
            attention_out: file.linear(&name("o"), dim, dim)?,
            ffn_in: file.linear(&name("f1"), dim, config.ffn)?,
            ffn_out: file.linear(&name("f2"), config.ffn, dim)?,
        })
    }

    pub(super) fn qkv_norm(&self) -> QkvNorm<'_> {
        QkvNorm { bias: self.qkv.bias(), q: &self.q_norm, k: &self.k_norm }
    }
}

/// A block's modulation at one time, `[6, dim]`.
#[derive(Clone, Copy)]
pub(super) struct Modulation<'a> {
    table: &'a [f32],
    dim: usize,
}

impl<'a> Modulation<'a> {
    pub(super) fn new(table: &'a [f32], dim: usize) -> Self {
        Self { table, dim }
    }

    fn row(self, i: usize) -> &'a [f32] {
        &self.table[i * self.dim..(i + 1) * self.dim]
    }

    pub(super) fn attention(self) -> Affine<'a> {
        Affine { shift: self.row(0), scale: self.row(1) }
    }

    pub(super) fn attention_gate(self) -> &'a [f32] {
        self.row(2)
    }

    pub(super) fn ffn(self) -> Affine<'a> {
        Affine { shift: self.row(3), scale: self.row(4) }
    }

    pub(super) fn ffn_gate(self) -> &'a [f32] {
        self.row(5)
    }
}
