//! What attention reads.

use tether_core::{AttendTable, DType, Engine, Geometry, LayerId, Side, SlotId};
use tether_layout::{Csr, Window};

use super::{KvCache, Layer};
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

/// The tables of a layer's windows at `positions` `0, 1, ..`.
fn view_of<'a>(
    layer: LayerId,
    windows: &'a [Window],
    positions: &'a [u32],
    geometry: &Geometry,
) -> Result<View<'a>, Error> {
    if windows.iter().any(|w| w.slots().is_empty()) {
        return Err(Error::Empty { layer });
    }
    let chunk = geometry.units_per_chunk;
    let table = |slots: &'a [SlotId]| AttendTable {
        slots,
        positions: &positions[..slots.len()],
        query_position: positions[slots.len() - chunk],
    };
    let tables = windows.iter().map(Window::slots).map(table).collect();
    Ok(View { tables, tokens_per_unit: geometry.tokens_per_unit as u32 })
}

impl<E: Engine> KvCache<E> {
    /// The window of `layer`.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], [`Error::Empty`].
    pub fn view(&self, layer: impl Into<LayerId>) -> Result<View<'_>, Error> {
        let layer = layer.into();
        let windows = self.layers[self.layer_index(layer)?].tables.windows();
        view_of(layer, windows, &self.positions, &self.geometry)
    }

    /// Attention of a pass's queries (un-rotated, `[tokens, query_heads, head_dim_k]`) over the layer's window, the staged chunk
    /// included; every query sees every key. `out` is `f32` `[tokens, query_heads, head_dim_v]`.
    ///
    /// # Errors
    /// [`Error::Empty`] before anything was staged, wrong shapes and dtypes.
    pub fn attend(
        &mut self,
        layer: impl Into<LayerId>,
        q: &E::Tensor,
        out: &mut E::Tensor,
    ) -> Result<(), Error> {
        let layer = layer.into();
        self.view(layer)?;
        self.expect("q", q, &self.geometry.query_shape(), self.geometry.dtype)?;
        self.expect("out", out, &self.geometry.output_shape(), DType::F32)?;
        let index = self.layer_index(layer)?;
        let Layer { store, tables, .. } = &mut self.layers[index];
        let view = view_of(layer, tables.windows(), &self.positions, &self.geometry)?;
        let rotation = self.rotation.as_ref();
        let attended = self.engine.attend(store, rotation, q, view.tables(), out);
        if !self.keeps_rotated {
            self.engine.forget_rotated(store);
        }
        Ok(attended?)
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
        let rotation = self.rotation.as_ref().filter(|_| rotated).map(|r| (r, table.positions));
        let keys = self.engine.gather(store, Side::Keys, table.slots, rotation)?;
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
        slots: &[SlotId],
    ) -> Result<(E::Tensor, E::Tensor), Error> {
        let store = &self.layers[self.layer_index(layer.into())?].store;
        Ok((
            self.engine.gather(store, Side::Keys, slots, None)?,
            self.engine.gather(store, Side::Values, slots, None)?,
        ))
    }
}
