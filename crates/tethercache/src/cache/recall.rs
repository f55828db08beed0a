//! Recalling: a chunk's own queries choose which archived units memory holds while it attends.

use tether_core::{Engine, LayerId, RecallPlan};

use super::KvCache;
use super::commit::Decision;
use crate::Error;

impl<E: Engine> KvCache<E> {
    /// Fills the memory of a layer from its archive, by the queries `q` of a pass over the staged chunk (un-rotated,
    /// `[tokens, query_heads, head_dim_k]`, in the geometry's dtype). What attends after it attends to that. May be called in any pass of a chunk, or
    /// in its first one only; memory stays as it is until it is called again.
    ///
    /// Under a recipe that does not recall it does nothing. Waits once for the scores of the archive, and only when there are any; nothing of
    /// keys and values is moved.
    ///
    /// # Errors
    /// [`Error::RecallWithoutChunk`] when no chunk is staged, wrong shapes and dtypes, scores that are NaN.
    pub fn recall(&mut self, layer: impl Into<LayerId>, q: &E::Tensor) -> Result<RecallPlan, Error> {
        let layer = layer.into();
        let index = self.layer_index(layer)?;
        let Some(open) = self.layers[index].open else { return Err(Error::RecallWithoutChunk { layer }) };
        self.expect("q", q, &self.geometry.query_shape(), self.geometry.dtype)?;
        let tables = self.layers[index].tables.clone();
        let candidates = self.planner.recallable(&tables);
        let mut decision = [Decision { layer, q, tables, candidates }];
        let logits = self.logits(&decision)?;
        let [Decision { tables, candidates, .. }] = &mut decision;
        let plan = self.planner.recall(tables, layer, open.chunk, candidates, &logits[0])?;
        let [Decision { tables, .. }] = decision;
        self.layers[index].tables = tables;
        Ok(plan)
    }
}
