//! What a model's key heads are for, measured on probes.

use std::ops::RangeBounds;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tether_core::{CoreError, DType, HostTensor};
use tethercache::Error;
use tethercache::score::tokens::{
    HeadProfile, LayerProfile, RecordedTokens, attention_variance, echo_and_induction,
};

use super::Llama;
use crate::{DenseAttention, ForwardError, ModelError, TokenAttention, TokenBlock};

/// Token ids of the published probe; models with fewer are probed with all of theirs.
const PUBLISHED_IDS: std::ops::Range<u32> = 10_000..12_500;

/// Random tokens, repeated, on which echo and induction are measured (arXiv:2407.15891), and a number of queries over a text, of which it is
/// measured how much the attention varies (arXiv:2504.09261).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadProbe {
    /// Random tokens; the publication has 2500.
    pub period: usize,
    /// How often they come; the publication has 4.
    pub repeats: usize,
    /// Queries over the text.
    pub queries: usize,
    /// Seed of the tokens.
    pub seed: u64,
}

impl Default for HeadProbe {
    fn default() -> Self {
        Self { period: 512, repeats: 4, queries: 32, seed: 1 }
    }
}

impl HeadProbe {
    /// Measures the heads of `model`. `start` is the token that begins a sequence, `text` the ids of a text, with it. `progress` is called
    /// for each layer of both probes.
    ///
    /// # Errors
    /// [`ForwardError::Model`] for no text or an id that there is not, and for a probe or a text that is longer than the model's context;
    /// [`ForwardError::Attention`] for a period that is not repeated.
    pub fn measure(
        &self,
        model: &Llama,
        start: u32,
        text: &[u32],
        mut progress: impl FnMut(),
    ) -> Result<HeadProfile, ForwardError<Error>> {
        let context = model.config().context;
        for (what, got) in [
            ("tokens of the probe", self.period.saturating_mul(self.repeats).saturating_add(1)),
            ("tokens of the text", text.len()),
        ] {
            if got > context {
                return Err(ModelError::Length { what, expected: context, got }.into());
            }
        }
        let mut layers = self.look(model, &self.tokens(start, model.config().vocabulary), |block| {
            let heads = Heads::of(block)?;
            let queries = heads.by_head(block.q, heads.query_heads, 1..)?;
            let [first, keys] =
                [heads.by_head(block.k, heads.kv_heads, ..1)?, heads.by_head(block.k, heads.kv_heads, 1..)?];
            let counts = (heads.query_heads, heads.kv_heads, heads.dim);
            let profile = echo_and_induction(counts, &queries, &keys, Some(&first), self.period)?;
            progress();
            Ok(profile)
        })?;
        let variances = self.look(model, text, |block| {
            let heads = Heads::of(block)?;
            let keys = heads.by_head(block.k, heads.kv_heads, ..)?;
            let queries = heads.by_head(block.q, heads.query_heads, ..)?;
            let values = vec![0.0; keys.len()];
            let counts = (heads.query_heads, heads.kv_heads);
            let seen = RecordedTokens::new(counts, heads.tokens, (heads.dim, heads.dim), keys, values)?;
            let variance = attention_variance(&seen.with_queries(queries)?, self.queries)?;
            progress();
            Ok(LayerProfile { variance, ..LayerProfile::default() })
        })?;
        for (layer, looked) in layers.iter_mut().zip(variances) {
            layer.variance = looked.variance;
        }
        let probe = format!(
            "{} random tokens {} times, seed {}; attention of {} queries over {} tokens of a text",
            self.period,
            self.repeats,
            self.seed,
            self.queries,
            text.len()
        );
        Ok(HeadProfile { probe, layers, ..HeadProfile::default() })
    }

    /// The repeated tokens.
    fn tokens(&self, start: u32, vocabulary: usize) -> Vec<u32> {
        let vocabulary = vocabulary as u32;
        let ids = if vocabulary > PUBLISHED_IDS.end { PUBLISHED_IDS } else { 0..vocabulary };
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let period: Vec<u32> = (0..self.period).map(|_| random.random_range(ids.clone())).collect();
        std::iter::once(start).chain(period.repeat(self.repeats)).collect()
    }

    /// What `look` makes of each layer of a pass over `tokens`.
    fn look(
        &self,
        model: &Llama,
        tokens: &[u32],
        look: impl FnMut(&TokenBlock<'_>) -> Result<LayerProfile, Error>,
    ) -> Result<Vec<LayerProfile>, ForwardError<Error>> {
        let positions: Vec<i32> = (0..tokens.len() as i32).collect();
        let mut looking = Looking { dense: DenseAttention::new(), look, layers: Vec::new() };
        model.forward(&mut model.workspace(), tokens, &positions, &mut looking)?;
        Ok(looking.layers)
    }
}

/// Plain attention that is looked at.
struct Looking<F> {
    dense: DenseAttention,
    look: F,
    layers: Vec<LayerProfile>,
}

impl<F: FnMut(&TokenBlock<'_>) -> Result<LayerProfile, Error>> TokenAttention for Looking<F> {
    type Error = Error;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Error> {
        self.layers.push((self.look)(block)?);
        self.dense.attend(block, out)?;
        // The next layer's tokens are all in its own block.
        self.dense.clear();
        Ok(())
    }
}

/// Sizes of a block.
struct Heads {
    tokens: usize,
    query_heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Heads {
    fn of(block: &TokenBlock<'_>) -> Result<Self, Error> {
        let (q, k) = (block.q.shape(), block.k.shape());
        match (q, k) {
            (&[tokens, query_heads, dim], &[_, kv_heads, _]) => {
                Ok(Self { tokens, query_heads, kv_heads, dim })
            }
            _ => {
                let (expected, got) = (vec![0, 0, 0].into(), q.into());
                Err(CoreError::ShapeMismatch { what: "q", expected, got }.into())
            }
        }
    }

    /// Tokens `which` of `[tokens, heads, dim]`, as `[heads, tokens, dim]`.
    fn by_head(
        &self,
        x: &HostTensor,
        heads: usize,
        which: impl RangeBounds<usize>,
    ) -> Result<Vec<f32>, Error> {
        let expected = DType::F32;
        let wrong = CoreError::DTypeMismatch { what: "q and k", expected, got: x.dtype() };
        let x = x.as_f32().ok_or(wrong)?;
        let mut out = Vec::with_capacity(x.len());
        for head in 0..heads {
            let rows =
                x.chunks_exact(heads * self.dim).enumerate().filter(|(token, _)| which.contains(token));
            rows.for_each(|(_, row)| out.extend_from_slice(&row[head * self.dim..][..self.dim]));
        }
        Ok(out)
    }
}
