//! Language models of the Llama architecture, from GGUF files.
//!
//! Files are read by a reader of our own ([`gguf`]): the libraries that know every block format bring a tensor library that takes longer to
//! compile than all else here, and the small ones read no more than the head of a file.

mod config;
mod gguf;
mod head_probe;
mod layer;
mod matrix;
mod probes;
mod rms_norm;
mod session;
mod tokenizer;
mod workspace;

use pulp::Arch;
use rayon::prelude::*;
use tether_core::{Engine as _, HostTensor, Pairing, TokenEngine, TokenLayout};
use tether_dense::exp;
use tether_host::Host;
use tethercache::rope::{RopeError, TokenRope};

pub use self::config::{LlamaConfig, RopeScaling};
pub use self::gguf::{BlockFormat, GgufError, GgufFile, GgufValue};
pub use self::head_probe::HeadProbe;
pub use self::session::{LlamaSession, Prediction, TokenTiming, greedy};
pub use self::tokenizer::{TextStream, TextTokenizer};
pub use self::workspace::LlamaWorkspace;

use self::gguf::metadata;
use self::layer::Layer;
use self::matrix::Matrix;
use self::rms_norm::add_rms_norm;
use crate::{ForwardError, ModelError, TokenAttention, TokenBlock};

/// Tokens of a task of element-wise work.
const ROWS: usize = 16;

/// A model's weights; a forward pass turns tokens into hidden states.
///
/// The model owns no context: attention, and with it the KV cache, is the caller's [`TokenAttention`]. Channels of queries and keys are in
/// the half-split order: pair `i` of a head is channels `i` and `i + head_dim / 2`. Work is spread over rayon's global pool; the results
/// do not depend on its size.
#[derive(Clone, Debug)]
pub struct Llama {
    config: LlamaConfig,
    arch: Arch,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None` when the embedding is the output layer too.
    head: Option<Matrix>,
    rope: TokenRope,
}

/// The turns that a model's settings ask for.
fn turns(config: &LlamaConfig) -> Result<TokenRope, ModelError> {
    let &LlamaConfig { rope_theta: theta, head_dim, .. } = config;
    let plain = TokenRope::new(Pairing::Half, theta, head_dim).map_err(unsound)?;
    match config.rope_scaling {
        None => Ok(plain),
        Some(RopeScaling::Linear { factor }) => slowed(&plain, std::iter::repeat(factor)),
        Some(RopeScaling::Yarn(yarn)) => {
            TokenRope::yarn(Pairing::Half, theta, head_dim, yarn).map_err(unsound)
        }
    }
}

/// `rope` with each pair's frequency divided by its factor.
fn slowed(rope: &TokenRope, factors: impl IntoIterator<Item = f64>) -> Result<TokenRope, ModelError> {
    let slower = rope.frequencies().iter().zip(factors).map(|(f, factor)| f / factor).collect();
    TokenRope::from_frequencies(rope.pairing(), slower).map_err(unsound)
}

fn unsound(_: RopeError) -> ModelError {
    metadata("llama.rope.freq_base", "and the scaling must give finite frequencies")
}

impl Llama {
    /// Loads the weights of `file`.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for a model of another architecture, [`ModelError::Metadata`] for settings that are missing or not
    /// implemented; [`ModelError::MissingTensor`], [`ModelError::UnexpectedTensor`], [`ModelError::TensorShape`],
    /// [`ModelError::TensorBytes`] and [`ModelError::NonFiniteWeight`] when its tensors are not the
    /// architecture's.
    pub fn load(file: &GgufFile) -> Result<Self, ModelError> {
        let config = LlamaConfig::read(file)?;
        let mut tensors = file.tensors();
        let &LlamaConfig { vocabulary, dim, head_dim, .. } = &config;
        let embedding = tensors.matrix("token_embd.weight", vocabulary, dim)?;
        let layers = (0..config.layers)
            .map(|layer| Layer::load(&mut tensors, &config, layer))
            .collect::<Result<_, _>>()?;
        let norm = tensors.vector("output_norm.weight", dim)?;
        let head = match tensors.has("output.weight") {
            true => Some(tensors.matrix("output.weight", vocabulary, dim)?),
            false => None,
        };
        let mut rope = turns(&config)?;
        // Llama 3.1 and later stretch the slow pairs.
        if tensors.has("rope_freqs.weight") {
            let factors = tensors.vector("rope_freqs.weight", head_dim / 2)?;
            if factors.iter().any(|f| *f <= 0.0) || config.rope_scaling.is_some() {
                return Err(metadata(
                    "rope_freqs.weight",
                    "must be positive, and come without llama.rope.scaling",
                ));
            }
            rope = slowed(&rope, factors.into_iter().map(f64::from))?;
        }
        tensors.finish()?;
        Ok(Self { config, arch: Arch::new(), embedding, layers, norm, head, rope })
    }

    /// The model's dimensions.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// How queries and keys are turned by their positions.
    pub fn rope(&self) -> &TokenRope {
        &self.rope
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|l| {
            let norms = size_of_val(&l.attention_norm[..]) + size_of_val(&l.ffn_norm[..]);
            norms + [&l.qkv, &l.output, &l.gate_up, &l.down].map(Matrix::bytes).iter().sum::<usize>()
        });
        let head = self.head.as_ref().map_or(0, Matrix::bytes);
        self.embedding.bytes() + layers.sum::<usize>() + size_of_val(&self.norm[..]) + head
    }

    /// The matrix that turns the heads of layer `layer` into channels of the residual stream, `[dim, query_heads * head_dim]` row-major;
    /// `None` when there is no such layer.
    pub fn output_projection(&self, layer: usize) -> Option<Vec<f32>> {
        let output = &self.layers.get(layer)?.output;
        Some((0..output.outputs()).flat_map(|row| output.row(row)).collect())
    }

    /// Buffers for forward passes of this model.
    pub fn workspace(&self) -> LlamaWorkspace {
        LlamaWorkspace::new()
    }

    /// One forward pass of a block of new tokens of one sequence, token `i` at position `positions[i]`. The result is
    /// [`LlamaWorkspace::hidden`].
    ///
    /// # Errors
    /// [`ForwardError::Model`] for no tokens, another number of positions, or an id that there is not; [`ForwardError::Attention`] when
    /// `attention` fails.
    pub fn forward<A: TokenAttention>(
        &self,
        ws: &mut LlamaWorkspace,
        tokens: &[u32],
        positions: &[i32],
        attention: &mut A,
    ) -> Result<(), ForwardError<A::Error>> {
        if tokens.is_empty() {
            return Err(ModelError::Length { what: "tokens", expected: 1, got: 0 }.into());
        }
        let (expected, got) = (tokens.len(), positions.len());
        if expected != got {
            return Err(ModelError::Length { what: "positions", expected, got }.into());
        }
        self.check_tokens(tokens)?;
        let engine = Host::parallel();
        let rotation =
            engine.upload_rotation(&self.rope.to_positions(&[positions])).map_err(ModelError::Core)?;
        ws.fit(&self.config, tokens.len()).map_err(ModelError::Core)?;

        let dim = self.config.dim;
        let rows = tokens.par_iter().zip(ws.residual.par_chunks_mut(dim));
        rows.for_each(|(token, into)| into.copy_from_slice(&self.embedding.row(*token as usize)));
        ws.projected.fill(0.0);
        for (layer, weights) in self.layers.iter().enumerate() {
            self.norm(ws, &weights.attention_norm);
            weights.qkv.apply(self.arch, &ws.normed, &mut ws.qkv, &mut ws.strip);
            self.split(ws)?;
            for (from, to) in [(&ws.q_pre, &mut ws.q), (&ws.k_pre, &mut ws.k)] {
                let (from, to_elements) = (elements(from)?, elements_mut(to)?);
                to_elements.copy_from_slice(from);
                engine.rotate(to, TokenLayout::Nhd, &rotation).map_err(ModelError::Core)?;
            }
            let block = TokenBlock {
                layer,
                positions,
                q: &ws.q,
                k: &ws.k,
                v: &ws.v,
                q_pre: &ws.q_pre,
                k_pre: &ws.k_pre,
                hidden: &ws.normed,
            };
            attention
                .attend(&block, &mut ws.attended)
                .map_err(|source| ForwardError::Attention { layer, source })?;
            let attended = elements(&ws.attended)?;
            if attended.len() != ws.tokens * self.config.query_heads * self.config.head_dim {
                return Err(swapped("attention output", ws.q.len()).into());
            }
            weights.output.apply(self.arch, attended, &mut ws.projected, &mut ws.strip);

            self.norm(ws, &weights.ffn_norm);
            weights.gate_up.apply(self.arch, &ws.normed, &mut ws.gate_up, &mut ws.strip);
            self.gate(ws);
            weights.down.apply(self.arch, &ws.gated, &mut ws.projected, &mut ws.strip);
        }
        self.norm(ws, &self.norm);
        Ok(())
    }

    /// Logits of what follows, `[rows, vocabulary]`, for `hidden` states `[rows, dim]` from [`LlamaWorkspace::hidden`].
    ///
    /// # Errors
    /// [`ModelError::NotAMultiple`] for `hidden` that is not whole rows, [`ModelError::Length`] for `out` of another size.
    pub fn logits(&self, ws: &mut LlamaWorkspace, hidden: &[f32], out: &mut [f32]) -> Result<(), ModelError> {
        let &LlamaConfig { dim, vocabulary, .. } = &self.config;
        if !hidden.len().is_multiple_of(dim) {
            return Err(ModelError::NotAMultiple { what: "hidden", unit: dim, got: hidden.len() });
        }
        let expected = hidden.len() / dim * vocabulary;
        if out.len() != expected {
            return Err(ModelError::Length { what: "out", expected, got: out.len() });
        }
        self.head.as_ref().unwrap_or(&self.embedding).apply(self.arch, hidden, out, &mut ws.strip);
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let vocabulary = self.config.vocabulary;
        match tokens.iter().position(|id| *id as usize >= vocabulary) {
            Some(index) => Err(ModelError::TokenId { index, id: tokens[index], vocabulary }),
            None => Ok(()),
        }
    }

    /// Adds what was projected to the residual stream, and norms that.
    fn norm(&self, ws: &mut LlamaWorkspace, weight: &[f32]) {
        let rows = ROWS * self.config.dim;
        let all = ws.residual.par_chunks_mut(rows).zip(ws.projected.par_chunks(rows));
        all.zip(ws.normed.par_chunks_mut(rows)).for_each(|((h, delta), out)| {
            add_rms_norm(self.arch, h, delta, weight, self.config.rms_eps, out);
        });
    }

    /// Rows of `[q | k | v]` to three tensors.
    fn split(&self, ws: &mut LlamaWorkspace) -> Result<(), ModelError> {
        let q_dim = self.config.query_heads * self.config.head_dim;
        let kv_dim = self.config.kv_heads * self.config.head_dim;
        let q = elements_mut(&mut ws.q_pre)?.par_chunks_mut(q_dim);
        let k = elements_mut(&mut ws.k_pre)?.par_chunks_mut(kv_dim);
        let v = elements_mut(&mut ws.v)?.par_chunks_mut(kv_dim);
        let rows = ws.qkv.par_chunks(q_dim + 2 * kv_dim);
        rows.zip(q).zip(k.zip(v)).with_min_len(ROWS).for_each(|((row, q), (k, v))| {
            q.copy_from_slice(&row[..q_dim]);
            k.copy_from_slice(&row[q_dim..q_dim + kv_dim]);
            v.copy_from_slice(&row[q_dim + kv_dim..]);
        });
        Ok(())
    }

    /// `silu(gate) * up`.
    fn gate(&self, ws: &mut LlamaWorkspace) {
        let ffn = self.config.ffn;
        let rows = ws.gate_up.par_chunks(2 * ffn).zip(ws.gated.par_chunks_mut(ffn));
        rows.with_min_len(ROWS).for_each(|(row, out)| self.arch.dispatch(Gate { row, out }));
    }
}

struct Gate<'a> {
    /// The gate, then what it multiplies.
    row: &'a [f32],
    out: &'a mut [f32],
}

impl pulp::WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let (gate, up) = self.row.split_at(self.out.len());
        for ((o, g), u) in self.out.iter_mut().zip(gate).zip(up) {
            *o = g / (1.0 + exp(-g)) * u;
        }
    }
}

fn swapped(what: &'static str, expected: usize) -> ModelError {
    ModelError::WorkTensor { what, expected }
}

/// Work tensors are `f32`; they can only be something else when an attention swapped one for another.
fn elements(tensor: &HostTensor) -> Result<&[f32], ModelError> {
    tensor.as_f32().ok_or_else(|| swapped("of a pass", tensor.len()))
}

fn elements_mut(tensor: &mut HostTensor) -> Result<&mut [f32], ModelError> {
    let len = tensor.len();
    tensor.as_f32_mut().ok_or_else(|| swapped("of a pass", len))
}
