//! Staging: a pass puts its chunk's keys and values into the window.

use tether_core::{ChunkIndex, Engine, LayerId, Summaries};

use super::{KvCache, Open, StageReport};
use crate::Error;

/// Which pass over a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassKind {
    /// Keys and values of a noisy chunk; a later pass overwrites them.
    Denoise,
    /// Keys and values of the finished chunk: the ones that stay.
    Clean,
}

/// One forward pass of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Noisy or clean.
    pub kind: PassKind,
}

impl Pass {
    /// A noisy pass of chunk `chunk`.
    pub fn denoise(chunk: impl Into<ChunkIndex>) -> Self {
        Self { chunk: chunk.into(), kind: PassKind::Denoise }
    }

    /// The clean pass of chunk `chunk`.
    pub fn clean(chunk: impl Into<ChunkIndex>) -> Self {
        Self { chunk: chunk.into(), kind: PassKind::Clean }
    }
}

impl<E: Engine> KvCache<E> {
    /// Writes a pass's keys and values, un-rotated, to its chunk's slots. The first pass of a chunk makes room for it: units leave the
    /// recent region, and wait for the clean pass where there is memory. Later passes overwrite.
    ///
    /// `k` is `[tokens, kv_heads, head_dim_k]` and `v` `[tokens, kv_heads, head_dim_v]` with
    /// `tokens = units_per_chunk * tokens_per_unit`, in the geometry's dtype, with a leading axis for several sequences.
    ///
    /// # Errors
    /// [`Error::ChunkOrder`] when this chunk is not the layer's current or next one, [`Error::LayerOrder`] when the layer before
    /// has not seen it or another has not committed the chunk before; wrong shapes and dtypes, NaN, and a device out of memory.
    pub fn stage(
        &mut self,
        layer: impl Into<LayerId>,
        pass: Pass,
        k: &E::Tensor,
        v: &E::Tensor,
    ) -> Result<StageReport, Error> {
        let id = layer.into();
        let index = self.layer_index(id)?;
        let begins = self.check_order(id, pass.chunk)?;
        self.expect("k", k, &self.geometry.key_shape(), self.geometry.dtype)?;
        self.expect("v", v, &self.geometry.value_shape(), self.geometry.dtype)?;
        let summaries = if pass.kind == PassKind::Clean && self.planner.needs_moments() {
            Summaries::Moments
        } else {
            Summaries::Skip
        };
        let clean = pass.kind == PassKind::Clean;
        let open = Open { chunk: pass.chunk, clean };
        if !begins {
            let layer = &mut self.layers[index];
            self.engine.write(&mut layer.store, &layer.tables.write_slots(), k, v, summaries)?;
            layer.open = Some(open);
            return Ok(StageReport::default());
        }
        // Worked out on a copy, so that a refused write leaves the tables alone.
        let mut tables = self.layers[index].tables.clone();
        let evicted = self.planner.begin_chunk(&mut tables)?;
        if tables.pool.capacity() > self.layers[index].tables.pool.capacity() {
            // Before the store grows, so that a refused tensor leaves no larger one behind; a write looks again.
            self.engine.check_finite("k", k)?;
            self.engine.check_finite("v", v)?;
        }
        let longest = tables.windows().iter().map(|w| w.slots().len()).max().unwrap_or(0);
        self.cover_positions(longest)?;
        let layer = &mut self.layers[index];
        self.engine.grow_store(&mut layer.store, tables.pool.capacity())?;
        self.engine.write(&mut layer.store, &tables.write_slots(), k, v, summaries)?;
        layer.tables = tables;
        layer.open = Some(open);
        let units: usize = evicted.iter().map(Vec::len).sum();
        let bytes_freed = (units * self.geometry.unit_bytes()) as u64;
        Ok(StageReport { began_chunk: true, evicted, bytes_freed })
    }

    /// True when `chunk` begins with this pass.
    fn check_order(&self, layer: LayerId, chunk: ChunkIndex) -> Result<bool, Error> {
        let state = &self.layers[layer.index()];
        match state.open {
            Some(open) if open.chunk == chunk => return Ok(false),
            Some(open) => return Err(Error::ChunkOrder { layer, expected: open.chunk, got: chunk }),
            None if chunk.0 != state.committed => {
                return Err(Error::ChunkOrder { layer, expected: ChunkIndex(state.committed), got: chunk });
            }
            None => {}
        }
        let has_begun =
            |l: &super::Layer<E>| l.committed > chunk.0 || l.open.is_some_and(|o| o.chunk == chunk);
        let behind = match layer.index().checked_sub(1) {
            Some(before) if !has_begun(&self.layers[before]) => Some(before),
            _ => self.layers.iter().position(|l| l.committed < chunk.0),
        };
        match behind {
            Some(behind) => Err(Error::LayerOrder { layer, chunk, behind: behind.into() }),
            None => Ok(true),
        }
    }
}
