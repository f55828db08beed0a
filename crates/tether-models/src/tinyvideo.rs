//! TinyVideo: a causal video diffusion transformer of 3.9 million parameters.

mod block;
mod checkpoint;
mod config;
mod time_embedding;
mod workspace;

use pulp::Arch;
use tether_reuse::{ModuleKind, Place};

pub use self::config::TinyVideoConfig;
pub use self::workspace::Workspace;

use self::block::{Block, MOD_ROWS, Modulation};
use self::checkpoint::Checkpoint;
use self::time_embedding::TimeEmbedding;
use self::workspace::{elements, elements_mut};
use crate::activation::bias_gelu_tanh;
use crate::attention::ChunkAttention;
use crate::linear::Linear;
use crate::norm::{Affine, Gated, add_gated_layer_norm, layer_norm, split_qkv};
use crate::observer::ForwardObserver;
use crate::step_reuse::PlaceHook;
use crate::{ForwardError, ModelError};

static BUNDLED: &[u8] = include_bytes!("../../../assets/tinyvideo/tinyvideo.safetensors");

/// The model's weights; a forward pass turns a noisy chunk of three frames into its velocity.
///
/// The model owns no context: attention, and with it the KV cache and the position embedding, is the caller's
/// [`ChunkAttention`].
#[derive(Clone, Debug)]
pub struct TinyVideo {
    config: TinyVideoConfig,
    arch: Arch,
    embed: Linear,
    time: TimeEmbedding,
    blocks: Vec<Block>,
    head_modulation: Vec<f32>,
    head: Linear,
}

impl TinyVideo {
    /// The model whose weights are compiled into this crate.
    ///
    /// # Errors
    /// As [`TinyVideo::from_safetensors`]; none with the weights as published.
    pub fn bundled() -> Result<Self, ModelError> {
        Self::from_safetensors(BUNDLED)
    }

    /// Loads a checkpoint of the default [`TinyVideoConfig`]; F16 and BF16 weights are promoted to `f32`.
    ///
    /// # Errors
    /// [`ModelError::Format`] when the bytes are not a safetensors file; [`ModelError::MissingTensor`],
    /// [`ModelError::UnexpectedTensor`], [`ModelError::TensorShape`], [`ModelError::TensorDType`] and
    /// [`ModelError::NonFiniteWeight`] when its tensors are not this architecture's.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, ModelError> {
        let config = TinyVideoConfig::default();
        let mut file = Checkpoint::open(bytes)?;
        let model = Self {
            arch: Arch::new(),
            embed: file.linear("embed", config.token_values, config.dim)?,
            time: TimeEmbedding::load(&mut file, &config)?,
            blocks: (0..config.layers)
                .map(|layer| Block::load(&mut file, &config, layer))
                .collect::<Result<_, _>>()?,
            head_modulation: file.take("hmod", &[2, config.dim])?,
            head: file.linear("head", config.dim, config.token_values)?,
            config,
        };
        file.finish()?;
        Ok(model)
    }

    /// The model's dimensions.
    pub fn config(&self) -> &TinyVideoConfig {
        &self.config
    }

    /// Buffers for forward passes of this model.
    pub fn workspace(&self) -> Workspace {
        Workspace::new(&self.config)
    }

    /// One forward pass of a chunk.
    ///
    /// `x` is the noisy (or, at `t` = 0, clean) chunk, `[192, 48]` in [`patchify`](crate::patchify)'s order; `t` in
    /// [0, 1] is the noise level; `out`, of the same shape, receives the velocity `noise - clean`.
    ///
    /// # Errors
    /// [`ForwardError::Model`] when `x` or `out` has another length, `t` is outside [0, 1], or the attention replaced
    /// a work tensor; [`ForwardError::Attention`] when `attention` fails.
    pub fn forward<A: ChunkAttention>(
        &self,
        ws: &mut Workspace,
        x: &[f32],
        t: f32,
        attention: &mut A,
        out: &mut [f32],
    ) -> Result<(), ForwardError<A::Error>> {
        self.forward_observed(ws, x, t, attention, &mut (), out)
    }

    /// [`TinyVideo::forward`] with a look at the activations on the way.
    ///
    /// # Errors
    /// As [`TinyVideo::forward`].
    pub fn forward_observed<A: ChunkAttention, O: ForwardObserver>(
        &self,
        ws: &mut Workspace,
        x: &[f32],
        t: f32,
        attention: &mut A,
        observer: &mut O,
        out: &mut [f32],
    ) -> Result<(), ForwardError<A::Error>> {
        self.forward_hooked(ws, x, t, attention, observer, &mut (), out)
    }

    /// [`TinyVideo::forward_observed`] with runs of blocks and modules that `hook` may leave out. A block whose attention is left out
    /// does not call `attention`.
    ///
    /// # Errors
    /// As [`TinyVideo::forward`], and [`ForwardError::Reuse`] when the hook fails.
    #[allow(clippy::too_many_arguments, reason = "a pass, and who looks on and who may cut it short")]
    pub fn forward_hooked<A: ChunkAttention, O: ForwardObserver, H: PlaceHook>(
        &self,
        ws: &mut Workspace,
        x: &[f32],
        t: f32,
        attention: &mut A,
        observer: &mut O,
        hook: &mut H,
        out: &mut [f32],
    ) -> Result<(), ForwardError<A::Error>> {
        self.check_arguments(x, t, out)?;

        self.prepare_modulations(ws, t);
        observer.time(&ws.time.e, &ws.time.e0);

        self.embed.apply(x, &mut ws.residual);
        ws.multiply_adds += self.work(self.config.token_values * self.config.dim);
        observer.embedded(&ws.residual);

        let first = next_norm(&ws.modulations, &ws.head_modulation, 0, self.blocks.len(), self.config.dim);
        layer_norm(self.arch, &ws.residual, first, &mut ws.normed);
        let spans = hook.spans().to_vec();
        if spans.iter().any(|span| span.start > 0) {
            ws.span_probe.clone_from(&ws.residual);
        }
        let mut layer = 0;
        while layer < self.blocks.len() {
            let span = spans.iter().position(|span| span.start == layer);
            let Some((index, span)) = span.map(|i| (i, spans[i].clone())) else {
                self.block(ws, layer, attention, observer, hook)?;
                layer += 1;
                continue;
            };
            let place = Place::Span(index as u16);
            if layer > 0 {
                // What the blocks so far have added.
                for (probe, h) in ws.span_probe.iter_mut().zip(&ws.residual) {
                    *probe = h - *probe;
                }
            }
            let probe = if layer > 0 { &ws.span_probe } else { &ws.normed };
            if !hook.computes(place, probe, &mut ws.residual)? {
                layer = span.end.min(self.blocks.len());
                let next = next_norm(
                    &ws.modulations,
                    &ws.head_modulation,
                    layer,
                    self.blocks.len(),
                    self.config.dim,
                );
                layer_norm(self.arch, &ws.residual, next, &mut ws.normed);
            } else {
                ws.span_start.clone_from(&ws.residual);
                while layer < span.end.min(self.blocks.len()) {
                    self.block(ws, layer, attention, observer, hook)?;
                    layer += 1;
                }
                hook.computed(place, &ws.span_start, &ws.residual)?;
            }
            if spans.iter().any(|later| later.start >= layer) {
                ws.span_probe.clone_from(&ws.residual);
            }
        }
        self.head.apply(&ws.normed, out);
        ws.multiply_adds += self.work(self.config.token_values * self.config.dim);
        Ok(())
    }

    /// Multiply-adds of a linear layer with `weights` weights over a chunk's tokens.
    fn work(&self, weights: usize) -> u64 {
        (weights * self.config.chunk_tokens()) as u64
    }

    /// One block, and the norm before what follows it.
    fn block<A: ChunkAttention, O: ForwardObserver, H: PlaceHook>(
        &self,
        ws: &mut Workspace,
        layer: usize,
        attention: &mut A,
        observer: &mut O,
        hook: &mut H,
    ) -> Result<(), ForwardError<A::Error>> {
        let (arch, dim, block) = (self.arch, self.config.dim, &self.blocks[layer]);
        let stream_len = ws.residual.len();
        let m = modulation(&ws.modulations, layer, dim);

        let place = Place::Module { layer: layer as u16, kind: ModuleKind::TemporalAttention };
        let watched = hook.watches(place);
        if !watched || hook.computes(place, &ws.normed, &mut ws.projected)? {
            block.qkv.apply_unbiased(&ws.normed, &mut ws.fused_qkv);
            split_qkv(
                arch,
                &ws.fused_qkv,
                block.qkv_norm(),
                elements_mut("q", &mut ws.q, stream_len)?,
                elements_mut("k", &mut ws.k, stream_len)?,
                elements_mut("v", &mut ws.v, stream_len)?,
            );
            attention
                .attend(layer, &ws.q, &ws.k, &ws.v, &mut ws.attended)
                .map_err(|source| ForwardError::Attention { layer, source })?;
            let attended = elements("attention output", &ws.attended, stream_len)?;
            block.attention_out.apply_unbiased(attended, &mut ws.projected);
            ws.multiply_adds += self.work(4 * dim * dim);
            if watched {
                hook.computed(place, &ws.normed, &ws.projected)?;
            }
        }
        let gated =
            Gated { delta: &ws.projected, bias: block.attention_out.bias(), gate: m.attention_gate() };
        add_gated_layer_norm(arch, &mut ws.residual, gated, m.ffn(), &mut ws.normed);

        let place = Place::Module { layer: layer as u16, kind: ModuleKind::Mlp };
        let watched = hook.watches(place);
        if !watched || hook.computes(place, &ws.normed, &mut ws.projected)? {
            block.ffn_in.apply_unbiased(&ws.normed, &mut ws.hidden);
            bias_gelu_tanh(arch, &mut ws.hidden, block.ffn_in.bias());
            block.ffn_out.apply_unbiased(&ws.hidden, &mut ws.projected);
            ws.multiply_adds += self.work(2 * dim * self.config.ffn);
            if watched {
                hook.computed(place, &ws.normed, &ws.projected)?;
            }
        }
        let gated = Gated { delta: &ws.projected, bias: block.ffn_out.bias(), gate: m.ffn_gate() };
        let next = next_norm(&ws.modulations, &ws.head_modulation, layer + 1, self.blocks.len(), dim);
        add_gated_layer_norm(arch, &mut ws.residual, gated, next, &mut ws.normed);
        observer.block(layer, &ws.residual);
        Ok(())
    }

    fn check_arguments(&self, x: &[f32], t: f32, out: &[f32]) -> Result<(), ModelError> {
        let expected = self.config.chunk_values();
        for (what, got) in [("x", x.len()), ("out", out.len())] {
            if got != expected {
                return Err(ModelError::Length { what, expected, got });
            }
        }
        if !(0.0..=1.0).contains(&t) {
            return Err(ModelError::OutOfRange {
                what: "t",
                value: f64::from(t),
                requirement: "must lie in [0, 1]",
            });
        }
        Ok(())
    }

    fn prepare_modulations(&self, ws: &mut Workspace, t: f32) {
        self.time.embed(self.arch, t, &mut ws.time);
        let (e, e0) = (&ws.time.e, &ws.time.e0);
        for (block, table) in self.blocks.iter().zip(ws.modulations.chunks_exact_mut(e0.len())) {
            for ((m, own), time) in table.iter_mut().zip(&block.modulation).zip(e0) {
                *m = own + time;
            }
        }
        let own_rows = self.head_modulation.chunks_exact(e.len());
        for (row, own) in ws.head_modulation.chunks_exact_mut(e.len()).zip(own_rows) {
            for ((m, own), time) in row.iter_mut().zip(own).zip(e) {
                *m = own + time;
            }
        }
    }
}

/// The modulation of block `layer`.
fn modulation(table: &[f32], layer: usize, dim: usize) -> Modulation<'_> {
    let len = MOD_ROWS * dim;
    Modulation::new(&table[layer * len..(layer + 1) * len], dim)
}

/// What the norm before block `layer` of `layers` applies, or the one before the head.
fn next_norm<'w>(table: &'w [f32], head: &'w [f32], layer: usize, layers: usize, dim: usize) -> Affine<'w> {
    if layer < layers {
        return modulation(table, layer, dim).attention();
    }
    let (shift, scale) = head.split_at(dim);
    Affine { scale, shift }
}
