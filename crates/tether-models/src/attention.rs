//! What a model asks of its cache.

use tether_core::HostTensor;

/// The attention of one chunk, layer by layer; a KV cache implements it.
///
/// A forward pass calls [`attend`](Self::attend) once per layer, in order.
pub trait ChunkAttention {
    /// Why an attention could not be computed.
    type Error: std::error::Error + 'static;

    /// Attends with layer `layer`'s queries over the cached context and the chunk itself.
    ///
    /// `q`, `k` and `v` are `f32`, `[tokens, heads, head_dim]` (`[192, 3, 64]` for TinyVideo); `q` and `k` are
    /// normalised but not rotated: the position embedding belongs to the cache. The result, in the same layout, is
    /// written to `out`, whose previous contents are unspecified.
    ///
    /// # Errors
    /// Whatever the implementation reports; the pass stops and its output is unspecified.
    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error>;
}

impl<A: ChunkAttention + ?Sized> ChunkAttention for &mut A {
    type Error = A::Error;

    fn attend(
        &mut self,
        layer: usize,
        q: &HostTensor,
        k: &HostTensor,
        v: &HostTensor,
        out: &mut HostTensor,
    ) -> Result<(), Self::Error> {
        (**self).attend(layer, q, k, v, out)
    }
}
