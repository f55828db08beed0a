//! A Llama model's dimensions.

use tethercache::rope::Yarn;

use super::gguf::{GgufFile, metadata};
use crate::ModelError;

/// How a model's rotary frequencies were changed for texts longer than those that it first learned from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// All are divided by a number (position interpolation, arXiv:2306.15595).
    Linear {
        /// That number.
        factor: f64,
    },
    /// Slow ones are divided, fast ones stay, and heads grow longer (`YaRN`, arXiv:2309.00071).
    Yarn(Yarn),
}

/// The dimensions of a model of the Llama architecture, as its file gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Token ids.
    pub vocabulary: usize,
    /// Channels of the residual stream.
    pub dim: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads; query head `h` reads head `h / (query_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Channels inside the feed-forward network.
    pub ffn: usize,
    /// Tokens that the model was trained to look back.
    pub context: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f64,
    /// What was done to the frequencies, if anything; a file's own factors for single pairs are in [`Llama::rope`](super::Llama::rope) alone.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in a norm.
    pub rms_eps: f32,
}

/// No dimension of a real model comes near; products of two are sizes that can be computed.
const LARGEST: usize = 1 << 24;

impl LlamaConfig {
    pub(super) fn read(file: &GgufFile) -> Result<Self, ModelError> {
        let architecture = file.text("general.architecture")?.unwrap_or_default();
        if architecture != "llama" {
            return Err(ModelError::Architecture { got: architecture.to_owned() });
        }
        let size = |key: &str, default: Option<usize>| match file.count(key)?.or(default) {
            None => Err(metadata(key, "is missing")),
            Some(0) => Err(metadata(key, "must be at least 1")),
            Some(n) if n > LARGEST => Err(metadata(key, "is too large")),
            Some(n) => Ok(n),
        };
        let dim = size("llama.embedding_length", None)?;
        let query_heads = size("llama.attention.head_count", None)?;
        let kv_heads = size("llama.attention.head_count_kv", Some(query_heads))?;
        if !query_heads.is_multiple_of(kv_heads) {
            return Err(metadata("llama.attention.head_count", "must be a multiple of head_count_kv"));
        }
        let head_dim = size("llama.attention.key_length", Some((dim / query_heads).max(1)))?;
        if size("llama.attention.value_length", Some(head_dim))? != head_dim {
            return Err(metadata("llama.attention.value_length", "must be key_length"));
        }
        if !head_dim.is_multiple_of(2) || size("llama.rope.dimension_count", Some(head_dim))? != head_dim {
            return Err(metadata("llama.rope.dimension_count", "must be all of an even head size"));
        }
        if file.count("llama.expert_count")?.unwrap_or(0) != 0 {
            return Err(metadata("llama.expert_count", "must be 0: mixtures of experts are not implemented"));
        }
        let rope_theta = file.number("llama.rope.freq_base")?.unwrap_or(10_000.0);
        if !(rope_theta.is_finite() && rope_theta > 1.0) {
            return Err(metadata("llama.rope.freq_base", "must be above 1"));
        }
        let rms_eps = file
            .number("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| metadata("llama.attention.layer_norm_rms_epsilon", "is missing"))?
            as f32;
        if !(0.0..1.0).contains(&rms_eps) {
            return Err(metadata("llama.attention.layer_norm_rms_epsilon", "must lie in [0, 1)"));
        }
        let tokens = file.texts("tokenizer.ggml.tokens")?.len();
        let context = size("llama.context_length", None)?;
        Ok(Self {
            vocabulary: size("llama.vocab_size", Some(tokens))?,
            dim,
            layers: size("llama.block_count", None)?,
            query_heads,
            kv_heads,
            head_dim,
            ffn: size("llama.feed_forward_length", None)?,
            context,
            rope_theta,
            rope_scaling: scaling(file, context)?,
            rms_eps,
        })
    }
}

fn scaling(file: &GgufFile, context: usize) -> Result<Option<RopeScaling>, ModelError> {
    let kind = match file.text("llama.rope.scaling.type")? {
        None | Some("none") => return Ok(None),
        Some(kind) => kind,
    };
    let key = "llama.rope.scaling.factor";
    let factor = file.number(key)?.ok_or_else(|| metadata(key, "is missing"))?;
    if !(1.0..=1e6).contains(&factor) {
        return Err(metadata(key, "must lie in [1, 1000000]"));
    }
    match kind {
        "linear" => Ok(Some(RopeScaling::Linear { factor })),
        "yarn" => {
            let key = "llama.rope.scaling.original_context_length";
            let original = file.count(key)?.unwrap_or(context);
            if !(1..=LARGEST).contains(&original) {
                return Err(metadata(key, "must be at least 1 and no more than a model's context"));
            }
            let key = "llama.rope.scaling.attn_factor";
            if file.number(key)?.is_some_and(|x| x != 1.0) {
                return Err(metadata(key, "must be 1: another length of heads is not implemented"));
            }
            let key = "llama.rope.scaling.yarn_beta_fast";
            let yarn = Yarn::new(factor, original);
            let beta_fast = file.number(key)?.unwrap_or(yarn.beta_fast);
            let beta_slow = file.number("llama.rope.scaling.yarn_beta_slow")?.unwrap_or(yarn.beta_slow);
            if !(beta_slow > 0.0 && beta_fast > beta_slow && beta_fast.is_finite()) {
                return Err(metadata(key, "must be above yarn_beta_slow, and that above 0"));
            }
            Ok(Some(RopeScaling::Yarn(Yarn { beta_fast, beta_slow, ..yarn })))
        }
        _ => Err(metadata("llama.rope.scaling.type", "must be none, linear or yarn")),
    }
}
