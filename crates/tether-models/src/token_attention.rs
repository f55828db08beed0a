//! What a language model asks of its cache.

use tether_core::HostTensor;

/// One layer's part of a forward pass over a block of new tokens of one sequence.
///
/// All tensors are `f32`, `[tokens, heads, head_dim]`; queries have `query_heads` heads, keys and values `kv_heads`, and query head `h`
/// reads key head `h / (query_heads / kv_heads)`.
#[derive(Clone, Copy, Debug)]
pub struct TokenBlock<'a> {
    /// Place of the layer in the model, from 0.
    pub layer: usize,
    /// Where the rotary embedding put each token.
    pub positions: &'a [i32],
    /// Queries, rotated.
    pub q: &'a HostTensor,
    /// Keys, rotated.
    pub k: &'a HostTensor,
    /// Values.
    pub v: &'a HostTensor,
    /// Queries before the rotation.
    pub q_pre: &'a HostTensor,
    /// Keys before the rotation.
    pub k_pre: &'a HostTensor,
    /// What q, k and v were projected from: the residual stream after the layer's norm, `[tokens, dim]` row-major.
    pub hidden: &'a [f32],
}

/// The attention of a language model, layer by layer; a KV cache implements it, and so may a wrapper that only looks.
///
/// A forward pass calls [`attend`](Self::attend) once per layer, in order, with the same tokens.
pub trait TokenAttention {
    /// Why an attention could not be computed.
    type Error: std::error::Error + 'static;

    /// Adds the block's keys and values to layer `block.layer`'s cache, and attends with its queries over what the cache holds: all
    /// that came before and, inside the block, no token that comes after the query's own. Logits are `q.k / sqrt(head_dim)`.
    ///
    /// The result, `[tokens, query_heads, head_dim]`, is written to `out`, whose previous contents are unspecified.
    ///
    /// # Errors
    /// Whatever the implementation reports; the pass stops, and layers before this one have taken the block.
    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Self::Error>;
}

impl<A: TokenAttention + ?Sized> TokenAttention for &mut A {
    type Error = A::Error;

    fn attend(&mut self, block: &TokenBlock<'_>, out: &mut HostTensor) -> Result<(), Self::Error> {
        (**self).attend(block, out)
    }
}
