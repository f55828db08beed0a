//! Buffers of a forward pass.

use tether_core::{CoreError, DType, HostTensor};

use super::config::LlamaConfig;

/// Every buffer that a forward pass needs. It grows to the largest block that it has seen, and carries nothing from one pass to the next
/// but the last hidden states.
#[derive(Clone, Debug)]
pub struct LlamaWorkspace {
    pub(super) tokens: usize,
    pub(super) residual: Vec<f32>,
    /// After a norm, `[tokens, dim]`.
    pub(super) normed: Vec<f32>,
    pub(super) projected: Vec<f32>,
    pub(super) qkv: Vec<f32>,
    pub(super) gate_up: Vec<f32>,
    pub(super) gated: Vec<f32>,
    pub(super) q_pre: HostTensor,
    pub(super) k_pre: HostTensor,
    pub(super) q: HostTensor,
    pub(super) k: HostTensor,
    pub(super) v: HostTensor,
    pub(super) attended: HostTensor,
    /// Widened weights.
    pub(super) strip: Vec<f32>,
}

impl LlamaWorkspace {
    pub(super) fn new() -> Self {
        let empty = || HostTensor::zeros(&[0, 0, 0], DType::F32).expect("nothing fits everywhere");
        Self {
            tokens: 0,
            residual: Vec::new(),
            normed: Vec::new(),
            projected: Vec::new(),
            qkv: Vec::new(),
            gate_up: Vec::new(),
            gated: Vec::new(),
            q_pre: empty(),
            k_pre: empty(),
            q: empty(),
            k: empty(),
            v: empty(),
            attended: empty(),
            strip: Vec::new(),
        }
    }

    /// Makes room for `tokens` tokens.
    pub(super) fn fit(&mut self, config: &LlamaConfig, tokens: usize) -> Result<(), CoreError> {
        let &LlamaConfig { dim, ffn, query_heads, kv_heads, head_dim, .. } = config;
        // An attention may have left another tensor in the place of its result.
        let whole =
            self.attended.shape() == [tokens, query_heads, head_dim] && self.attended.dtype() == DType::F32;
        if self.tokens == tokens && whole {
            return Ok(());
        }
        let heads = |heads| HostTensor::zeros(&[tokens, heads, head_dim], DType::F32);
        self.q_pre = heads(query_heads)?;
        self.q = heads(query_heads)?;
        self.attended = heads(query_heads)?;
        self.k_pre = heads(kv_heads)?;
        self.k = heads(kv_heads)?;
        self.v = heads(kv_heads)?;
        for (buffer, width) in [
            (&mut self.residual, dim),
            (&mut self.normed, dim),
            (&mut self.projected, dim),
            (&mut self.qkv, (query_heads + 2 * kv_heads) * head_dim),
            (&mut self.gate_up, 2 * ffn),
            (&mut self.gated, ffn),
        ] {
            buffer.resize(tokens * width, 0.0);
        }
        self.tokens = tokens;
        Ok(())
    }

    /// The last pass's hidden states after the final norm, `[tokens, dim]` row-major: what
    /// [`Llama::logits`](super::Llama::logits) takes.
    pub fn hidden(&self) -> &[f32] {
        &self.normed
    }
}
