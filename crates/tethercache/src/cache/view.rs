//! What attention reads.

use tether_core::{AttendTable, DType, Engine, LayerId, Side};
use tether_layout::{Csr, Window};

use super::KvCache;
use crate::Error;

/// A layer's window as attention sees it: tables for a paged kernel. Valid until the cache changes.
#[derive(Clone, Debug)]
pub struct View<'a> {
    tables: Vec<AttendTable<'a>>,
    tokens_per_unit: u32,
}

impl View<'_> {
    /// Slots, positions and the queries' position, per sequence.
    pub fn tables(&self) -> &[AttendTable<'_>] {
        &self.tables
    }

    /// The tables as compressed rows.
    pub fn csr(&self) -> Csr {
        Csr::from_tables(self.tables.iter().map(|t| t.slots), self.tokens_per_unit)
    }
}

impl<E: Engine> KvCache<E> {
    /// The window of `layer`.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::Empty`].
    pub fn view(&self, layer: impl Into<LayerId>) -> Result<View<'_>, Error> {
        let layer = layer.into();
        let windows = self.layers[self.layer_index(layer)?].tables.windows();
        if windows.iter().any(|w| w.slots().is_empty()) {
            return Err(Error::Empty { layer });
        }
        let chunk = self.geometry.units_per_chunk;
        let tables = windows
            .iter()
            .map(Window::slots)
            .map(|slots| AttendTable {
                slots,
                positions: &self.positions[..slots.len()],
                query_position: self.positions[slots.len() - chunk],
            })
            .collect();
        let tokens_per_unit = self.geometry.tokens_per_unit as u32;
        Ok(View { tables, tokens_per_unit })
    }

    /// Attention of a pass's queries (un-rotated, `[tokens, query_heads, head_dim_k]`) over the layer's window, the staged chunk
    /// included; every query sees every key. `out` is `f32` `[tokens, query_heads, head_dim_v]`.
    ///
    /// # Errors
    /// [`Error::Empty`] before anything was staged, wrong shapes and dtypes.
    pub fn attend(&self, layer: impl Into<LayerId>, q: &E::Tensor, out: &mut E::Tensor) -> Result<(), Error> {
        let layer = layer.into();
        let view = self.view(layer)?;
        self.expect("q", q, &self.geometry.query_shape(), self.geometry.dtype)?;
        self.expect("out", out, &self.geometry.output_shape(), DType::F32)?;
        let store = &self.layers[layer.index()].store;
        Ok(self.engine.attend(store, self.phases.as_ref(), q, view.tables(), out)?)
    }

    /// Copies the window of one sequence out in logical order, for attention of the caller's own: keys
    /// `[units * tokens_per_unit, kv_heads, head_dim_k]`, rotated to the positions of [`View::tables`], and values.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::NoSuchSequence`], [`Error::Empty`].
    pub fn contiguous(
        &self,
        layer: impl Into<LayerId>,
        sequence: usize,
    ) -> Result<(E::Tensor, E::Tensor), Error> {
        self.copy_out(layer.into(), sequence, true)
    }

    /// As [`KvCache::contiguous`], with the keys as they are stored: un-rotated.
    ///
    /// # Errors
    /// As [`KvCache::contiguous`].
    pub fn contiguous_unrotated(
        &self,
        layer: impl Into<LayerId>,
        sequence: usize,
    ) -> Result<(E::Tensor, E::Tensor), Error> {
        self.copy_out(layer.into(), sequence, false)
    }

    fn copy_out(
        &self,
        layer: LayerId,
        sequence: usize,
        rotated: bool,
    ) -> Result<(E::Tensor, E::Tensor), Error> {
        let view = self.view(layer)?;
        let sequences = view.tables().len();
        let table = view.tables().get(sequence).ok_or(Error::NoSuchSequence { sequence, sequences })?;
        let store = &self.layers[layer.index()].store;
        let phases = self.phases.as_ref().filter(|_| rotated).map(|p| (p, table.positions));
        let keys = self.engine.gather(store, Side::Keys, table.slots, phases)?;
        let values = self.engine.gather(store, Side::Values, table.slots, None)?;
        Ok((keys, values))
    }

    /// The bytes of single slots, keys then values, un-rotated: for tools and tests that look at where units lie.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`]; a slot outside the store.
    pub fn slots(
        &self,
        layer: impl Into<LayerId>,
        slots: &[tether_core::SlotId],
    ) -> Result<(E::Tensor, E::Tensor), Error> {
        let store = &self.layers[self.layer_index(layer.into())?].store;
        Ok((
            self.engine.gather(store, Side::Keys, slots, None)?,
            self.engine.gather(store, Side::Values, slots, None)?,
        ))
    }
}
