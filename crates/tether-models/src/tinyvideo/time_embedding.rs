//! The embedding of the diffusion time.

use pulp::Arch;

use super::block::MOD_ROWS;
use super::checkpoint::Checkpoint;
use super::config::TinyVideoConfig;
use crate::ModelError;
use crate::activation::silu;
use crate::linear::Linear;

/// Times are multiplied by this before the sinusoids, as in models with 1000 discrete steps.
const TIME_SCALE: f32 = 1000.0;

#[derive(Clone, Debug)]
pub(super) struct TimeEmbedding {
    frequencies: Vec<f32>,
    t1: Linear,
    t2: Linear,
    tp: Linear,
}

impl TimeEmbedding {
    pub(super) fn load(file: &mut Checkpoint<'_>, config: &TinyVideoConfig) -> Result<Self, ModelError> {
        let half = config.freq_dim / 2;
        Ok(Self {
            frequencies: (0..half)
                .map(|i| (-(10_000f64.ln()) * i as f64 / half as f64).exp() as f32)
                .collect(),
            t1: file.linear("t1", config.freq_dim, config.dim)?,
            t2: file.linear("t2", config.dim, config.dim)?,
            tp: file.linear("tp", config.dim, MOD_ROWS * config.dim)?,
        })
    }

    /// Writes `e` (`[dim]`) and `e0` (`[6, dim]`) of time `t`.
    pub(super) fn embed(&self, arch: Arch, t: f32, buffers: &mut TimeBuffers) {
        let (cos, sin) = buffers.sinusoids.split_at_mut(self.frequencies.len());
        for ((c, s), f) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            // The angle is rounded to f32 as in training; from there double precision costs nothing at this size.
            let (sin, cos) = f64::from(TIME_SCALE * t * f).sin_cos();
            (*c, *s) = (cos as f32, sin as f32);
        }
        self.t1.apply(&buffers.sinusoids, &mut buffers.hidden);
        silu(arch, &mut buffers.hidden);
        self.t2.apply(&buffers.hidden, &mut buffers.e);
        buffers.hidden.copy_from_slice(&buffers.e);
        silu(arch, &mut buffers.hidden);
        self.tp.apply(&buffers.hidden, &mut buffers.e0);
    }
}

#[derive(Clone, Debug)]
pub(super) struct TimeBuffers {
    sinusoids: Vec<f32>,
    hidden: Vec<f32>,
    pub(super) e: Vec<f32>,
    pub(super) e0: Vec<f32>,
}

impl TimeBuffers {
    pub(super) fn new(config: &TinyVideoConfig) -> Self {
        Self {
            sinusoids: vec![0.0; config.freq_dim],
            hidden: vec![0.0; config.dim],
            e: vec![0.0; config.dim],
            e0: vec![0.0; MOD_ROWS * config.dim],
        }
    }
}
