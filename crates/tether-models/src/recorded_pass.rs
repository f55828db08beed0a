//! A pass over a text that was made once, for caches that are to have read it.

use tether_core::{HostTensor, TokenEngine};

use crate::{CachedAttention, DenseAttention, ForwardError, Llama, LlamaSession, TokenAttention, TokenBlock};

/// What every layer asked of its cache while a text was read under a cache that keeps everything.
///
/// A cache that evicts nothing before the end of the text is in the same state after [`RecordedPass::replay`] as after a pass of its own, and
/// all the work of the model, attention included, is done once for any number of caches. It holds what went in and out of
/// the heads of all layers: 280 KB a token for a model of 30 layers of 9 query heads of 64.
#[derive(Debug, Default)]
pub struct RecordedPass {
    blocks: Vec<Block>,
    tokens: usize,
}

#[derive(Debug)]
struct Block {
    layer: usize,
    positions: Vec<i32>,
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
    q_pre: HostTensor,
    k_pre: HostTensor,
    hidden: Vec<f32>,
}

struct Recorder<'a> {
    attention: DenseAttention,
    blocks: &'a mut Vec<Block>,
}

impl TokenAttention for Recorder<'_> {
    type Error = tether_core::CoreError;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Self::Error> {
        self.attention.attend(block, out)?;
        self.blocks.push(Block {
            layer: block.layer,
            positions: block.positions.to_vec(),
            q: block.q.clone(),
            k: block.k.clone(),
            v: block.v.clone(),
            q_pre: block.q_pre.clone(),
            k_pre: block.k_pre.clone(),
            hidden: block.hidden.to_vec(),
        });
        Ok(())
    }
}

impl RecordedPass {
    /// Reads `tokens` from position 0 on. `progress` is called as by [`LlamaSession::score`].
    ///
    /// # Errors
    /// Those of [`LlamaSession::score`].
    pub fn record(
        model: &Llama,
        tokens: &[u32],
        progress: impl FnMut(usize),
    ) -> Result<Self, ForwardError<tether_core::CoreError>> {
        let mut blocks = Vec::new();
        let attention = DenseAttention::new();
        let recorder = Recorder { attention, blocks: &mut blocks };
        LlamaSession::new(model, recorder).score(tokens, &[], progress)?;
        Ok(Self { blocks, tokens: tokens.len() })
    }

    /// Tokens that were read; the next one is at this position.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Gives `attention`, which should hold nothing, all that was read.
    ///
    /// # Errors
    /// Those of [`CachedAttention::append`].
    pub fn replay<E: TokenEngine>(
        &self,
        attention: &mut CachedAttention<E>,
    ) -> Result<(), tethercache::Error> {
        for block in &self.blocks {
            attention.append(&TokenBlock {
                layer: block.layer,
                positions: &block.positions,
                q: &block.q,
                k: &block.k,
                v: &block.v,
                q_pre: &block.q_pre,
                k_pre: &block.k_pre,
                hidden: &block.hidden,
            })?;
        }
        Ok(())
    }
}
