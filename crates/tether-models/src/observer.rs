//! A look at a forward pass's intermediate values.

/// Receives intermediate activations of a forward pass; every method does nothing unless overridden.
///
/// `()` observes nothing and costs nothing. Queries, keys and values are seen by the
/// [`ChunkAttention`](crate::ChunkAttention).
pub trait ForwardObserver {
    /// The time embedding `e` (`[dim]`) and the modulation `e0` (`[6, dim]`).
    fn time(&mut self, e: &[f32], e0: &[f32]) {
        let _ = (e, e0);
    }

    /// The embedded tokens, `[tokens, dim]`.
    fn embedded(&mut self, h: &[f32]) {
        let _ = h;
    }

    /// The hidden state after block `layer`, `[tokens, dim]`.
    fn block(&mut self, layer: usize, h: &[f32]) {
        let _ = (layer, h);
    }
}

impl ForwardObserver for () {}
