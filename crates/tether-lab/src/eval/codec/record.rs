//! Keys, values and queries of a model that reads a text.

use anyhow::{Result, ensure};
use tether_core::{CoreError, HostTensor};
use tether_models::{DenseAttention, LlamaSession, TokenAttention, TokenBlock};

use crate::language::Language;

/// One key head of one layer, and the query heads that share it. Keys and queries are rotated.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadTrace {
    /// `[group, tokens, dim]`, of all tokens or of the last ones.
    pub(crate) q: Vec<Vec<f32>>,
    /// `[tokens, dim]`.
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) dim: usize,
    /// Whether queries see no token after their own.
    pub(crate) causal: bool,
}

impl HeadTrace {
    pub(crate) fn tokens(&self) -> usize {
        self.k.len() / self.dim
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

struct Recorder<'a> {
    inner: DenseAttention,
    layers: &'a [usize],
    heads: Vec<HeadTrace>,
}

/// Appends one head of `x` `[tokens, heads, dim]`.
pub(super) fn column(x: &HostTensor, head: usize, into: &mut Vec<f32>) {
    let &[_, heads, dim] = x.shape() else { return };
    let rows = x.to_f32_vec();
    rows.chunks_exact(heads * dim).for_each(|row| into.extend_from_slice(&row[head * dim..(head + 1) * dim]));
}

impl TokenAttention for Recorder<'_> {
    type Error = CoreError;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), CoreError> {
        if let (Some(place), &[_, query_heads, dim], &[_, kv_heads, _]) =
            (self.layers.iter().position(|&l| l == block.layer), block.q.shape(), block.k.shape())
        {
            self.heads.resize_with(self.layers.len() * kv_heads, HeadTrace::default);
            let group = query_heads / kv_heads.max(1);
            for (head, trace) in self.heads[place * kv_heads..][..kv_heads].iter_mut().enumerate() {
                (trace.dim, trace.causal) = (dim, true);
                trace.q.resize_with(group, Vec::new);
                column(block.k, head, &mut trace.k);
                column(block.v, head, &mut trace.v);
                trace.q.iter_mut().enumerate().for_each(|(i, q)| column(block.q, head * group + i, q));
            }
        }
        self.inner.attend(block, out)
    }
}

/// Reads the first `tokens` tokens of `text`; the heads of `layers`, layer by layer.
pub(crate) fn record(
    language: &Language,
    text: &str,
    tokens: usize,
    layers: &[usize],
) -> Result<Vec<HeadTrace>> {
    let most = language.model.config().layers;
    ensure!(layers.iter().all(|&l| l < most), "--layers: the model has layers 0 to {}", most - 1);
    let mut ids = language.tokenizer.encode_start(text)?;
    ensure!(ids.len() >= tokens, "the text has {} tokens, {tokens} are asked for", ids.len());
    ids.truncate(tokens);
    let recorder = Recorder { inner: DenseAttention::new(), layers, heads: Vec::new() };
    let mut session = LlamaSession::new(&language.model, recorder);
    session.read(&ids)?;
    Ok(session.into_attention().heads)
}
