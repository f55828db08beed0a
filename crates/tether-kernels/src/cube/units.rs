//! Units in and out of slots: stores, writes with and without moments, copies.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::{
    AttendTable, CoreError, DType, RotatedPlaces, Side, SlotId, StoreSpec, Summaries, Traffic, UnitToRotate,
    checks,
};

use super::launch::{Inline, array, flat, spread, vector_size, with_storage, words};
use super::store::{RotatedKeys, SideBuffers};
use super::{Cube, CubeRotation, CubeStore, CubeTensor};
use crate::kernels::{column, copy, moments};
use crate::ops;

/// Cubes that copy `len` vectors.
fn blocks(len: usize) -> usize {
    len.div_ceil((super::launch::THREADS * copy::AT_ONCE) as usize)
}

/// Cubes of `x` for each of `units`.
pub(super) fn per_unit(x: usize, units: usize) -> CubeCount {
    let (y, z) = spread(units);
    CubeCount::Static(x as u32, y, z)
}

impl<R: Runtime> Cube<R> {
    fn zeros(&self, dtype: DType, len: usize) -> Handle {
        let handle = self.client.empty(len.max(1) * dtype.bytes());
        let size = vector_size(&self.client, dtype.bytes(), &[len]);
        let (count, dim) = flat(len / size);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `len / size` vectors of a buffer of `len` elements, which `size` divides.
        unsafe {
            with_storage!(dtype, F => copy::fill_zero::launch_unchecked::<F, R>(
                &self.client, count, dim, size, array(&handle, len), (len / size) as u32,
            ));
        }
        handle
    }

    pub(super) fn new_store(&self, spec: &StoreSpec) -> Result<CubeStore, CoreError> {
        self.require(spec.dtype)?;
        // Kernels index with 32 bits.
        let limit = u32::MAX as usize;
        let len = |head_dim: usize| {
            let shape = [spec.slots, spec.tokens_per_unit, spec.kv_heads, head_dim];
            checks::index_space("store elements", &shape, limit)
        };
        let (len_k, len_v) = (len(spec.head_dim_k)?, len(spec.head_dim_v)?);
        let head_dims = spec.head_dim_k.saturating_add(spec.head_dim_v);
        let moments =
            checks::index_space("store moments", &[4, spec.slots, spec.kv_heads, head_dims], limit)?;
        let side = |len, head_dim: usize| SideBuffers {
            data: self.zeros(spec.dtype, len),
            channels: spec.kv_heads * head_dim,
        };
        Ok(CubeStore {
            spec: *spec,
            keys: side(len_k, spec.head_dim_k),
            values: side(len_v, spec.head_dim_v),
            moments: self.zeros(DType::F32, moments),
            rows: (0..spec.slots as u32).map(|slot| 2 * slot).collect(),
            rotated: None,
        })
    }

    pub(super) fn grown_store(&self, store: &CubeStore, slots: usize) -> Result<CubeStore, CoreError> {
        let mut grown = self.new_store(&StoreSpec { slots, ..store.spec })?;
        for side in [Side::Keys, Side::Values] {
            let len = store.data_len(side);
            self.copy_prefix(store.spec.dtype, &store.side(side).data, &grown.side(side).data, len);
            self.traffic
                .add(Traffic { grown: (len * store.spec.dtype.bytes()) as u64, ..Traffic::default() });
        }
        self.copy_prefix(DType::F32, &store.moments, &grown.moments, store.moments_len());
        grown.rows[..store.rows.len()].copy_from_slice(&store.rows);
        Ok(grown)
    }

    /// The first `len` elements.
    pub(super) fn copy_prefix(&self, dtype: DType, from: &Handle, to: &Handle, len: usize) {
        let size = vector_size(&self.client, dtype.bytes(), &[len]);
        let (x, y) = spread(blocks(len / size));
        let (count, dim) = (CubeCount::Static(x, y, 1), CubeDim::new_1d(super::launch::THREADS));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `len / size` vectors, and both buffers have at least `len` elements, which `size` divides.
        unsafe {
            with_storage!(dtype, F => copy::copy_prefix::launch_unchecked::<F, R>(
                &self.client, count, dim, size, array(from, len), array(to, len), (len / size) as u32,
            ));
        }
    }

    /// Writes units whose shapes and slots are checked.
    pub(super) fn write_units(
        &self,
        store: &CubeStore,
        slots: &[SlotId],
        (k, v): (&CubeTensor, &CubeTensor),
        summaries: Summaries,
    ) {
        let spec = store.spec;
        let (channels_k, channels_v) = (store.keys.channels, store.values.channels);
        let size = vector_size(&self.client, spec.dtype.bytes(), &[channels_k, channels_v]);
        let rows: Vec<u32> = slots.iter().map(|&slot| store.row(slot)).collect();
        let (units, rows) = (slots.len(), words(&self.client, &rows, Inline::Searched));
        let tensors = || (array(&k.handle, k.len()), array(&v.handle, v.len()));
        let data = |side| array(&store.side(side).data, store.data_len(side));
        let (width_k, width_v) = (channels_k / size, channels_v / size);
        match summaries {
            Summaries::Skip => {
                let (unit_k, unit_v) = (spec.tokens_per_unit * width_k, spec.tokens_per_unit * width_v);
                let count = per_unit(blocks(unit_k) + blocks(unit_v), units);
                let (k, v) = tensors();
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel stops at `units` units of `unit_k` and `unit_v` vectors, as many as K and V have, and the slots exist.
                unsafe {
                    with_storage!(spec.dtype, F => copy::write_units::launch_unchecked::<F, R>(
                        &self.client, count, CubeDim::new_1d(super::launch::THREADS), size, k, v, data(Side::Keys),
                        data(Side::Values), rows, units as u32, unit_k as u32, unit_v as u32, blocks(unit_k) as u32,
                    ));
                }
            }
            Summaries::Moments => {
                let columns = column::NARROW / (size * spec.dtype.bytes());
                let (blocks_k, blocks_v) = (width_k.div_ceil(columns), width_v.div_ceil(columns));
                let count = per_unit(blocks_k + blocks_v, units);
                let (k, v) = tensors();
                #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
                // SAFETY: the kernel stops at `units` units of `tokens_per_unit` tokens of `width_k` and `width_v` vectors, as many as K and V
                // have, and the slots and their rows of moments exist.
                unsafe {
                    with_storage!(spec.dtype, F => moments::write_with_moments::launch_unchecked::<F, R>(
                        &self.client, count, CubeDim::new_1d(moments::THREADS), size, k, v, data(Side::Keys),
                        data(Side::Values), array(&store.moments, store.moments_len()), rows, units as u32,
                        spec.tokens_per_unit as u32, width_k as u32, width_v as u32, blocks_k as u32, columns as u32,
                    ));
                }
            }
        }
    }

    pub(super) fn gather_plain(
        &self,
        store: &CubeStore,
        side: Side,
        slots: &[SlotId],
    ) -> Result<CubeTensor, CoreError> {
        let spec = &store.spec;
        let shape = [slots.len() * spec.tokens_per_unit, spec.kv_heads, store.head_dim(side)];
        let out = self.tensor(&shape, spec.dtype)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let size = vector_size(&self.client, spec.dtype.bytes(), &[store.unit_len(side)]);
        let unit = store.unit_len(side) / size;
        let table: Vec<u32> = slots.iter().map(|s| s.0).collect();
        let (count, dim) = (per_unit(blocks(unit), slots.len()), CubeDim::new_1d(super::launch::THREADS));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at as many units of `unit` vectors as there are slots, `out` has room for them, and the slots exist.
        unsafe {
            with_storage!(spec.dtype, F => copy::gather_units::launch_unchecked::<F, R>(
                &self.client, count, dim, size, array(&store.side(side).data, store.data_len(side)),
                array(&out.handle, out.len()), words(&self.client, &table, Inline::Searched), slots.len() as u32, unit as u32,
            ));
        }
        Ok(out)
    }

    /// Keys in the order of `slots`, rotated to positions. Arguments are checked.
    pub(super) fn gather_keys(
        &self,
        store: &CubeStore,
        slots: &[SlotId],
        (rotation, positions): (&CubeRotation, &[u32]),
    ) -> Result<CubeTensor, CoreError> {
        let spec = &store.spec;
        let shape = [slots.len() * spec.tokens_per_unit, spec.kv_heads, spec.head_dim_k];
        let out = self.tensor(&shape, spec.dtype)?;
        let units = slots.iter().zip(positions).enumerate();
        let units: Vec<UnitToRotate> =
            units.map(|(place, (&slot, &position))| UnitToRotate { slot, place, position }).collect();
        let from = (&store.keys.data, store.data_len(Side::Keys));
        ops::rotate::launch_units(&self.client, spec, rotation, from, (&out.handle, out.len()), &units);
        Ok(out)
    }

    /// Sees to it that all units of `tables` stand rotated beside the store, one after the other. Arguments are checked.
    pub(super) fn rotate_window(
        &self,
        store: &mut CubeStore,
        rotation: &CubeRotation,
        tables: &[AttendTable<'_>],
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        let unit_len = store.unit_len(Side::Keys);
        let places: usize = tables.iter().map(|table| table.slots.len()).sum();
        let known = store.rotated.take();
        let known = known.filter(|known| known.rotation.is(rotation) && known.capacity >= places);
        let mut rotated = match known {
            Some(known) => known,
            None => {
                // A window that is still being filled grows, and has all of its slots from the start where it is bounded.
                let capacity = places.max((places + places / 2).min(spec.slots));
                let shape = [capacity, spec.tokens_per_unit, spec.kv_heads, spec.head_dim_k];
                let len = checks::index_space("rotated keys", &shape, u32::MAX as usize)?;
                let keys = self.client.empty(len.max(1) * spec.dtype.bytes());
                RotatedKeys { rotation: rotation.clone(), places: RotatedPlaces::default(), keys, capacity }
            }
        };
        let wanted = tables.iter().flat_map(|t| t.slots.iter().copied().zip(t.positions.iter().copied()));
        let stale = rotated.places.stale(wanted);
        let from = (&store.keys.data, store.data_len(Side::Keys));
        let to = (&rotated.keys, rotated.capacity * unit_len);
        ops::rotate::launch_units(&self.client, &spec, rotation, from, to, &stale);
        let bytes = stale.len() * unit_len * spec.dtype.bytes();
        self.traffic.add(Traffic { rotated: bytes as u64, ..Traffic::default() });
        store.rotated = Some(rotated);
        Ok(())
    }

    pub(super) fn gather_moments(
        &self,
        store: &CubeStore,
        side: Side,
        slots: &[SlotId],
    ) -> Result<CubeTensor, CoreError> {
        let len = 2 * store.side(side).channels;
        let out = self.tensor(&[slots.len(), 2, store.side(side).channels], DType::F32)?;
        if out.len() == 0 {
            return Ok(out);
        }
        let rows: Vec<u32> = slots.iter().map(|&slot| store.row(slot)).collect();
        let first = match side {
            Side::Keys => 0,
            Side::Values => 2 * store.keys.channels,
        };
        let (x, dim) =
            (len.div_ceil(super::launch::THREADS as usize), CubeDim::new_1d(super::launch::THREADS));
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at as many rows of `len` numbers as there are slots, `out` has room for them, and the rows exist.
        unsafe {
            moments::gather_moments::launch_unchecked::<R>(
                &self.client,
                per_unit(x, slots.len()),
                dim,
                array(&store.moments, store.moments_len()),
                array(&out.handle, out.len()),
                words(&self.client, &rows, Inline::Searched),
                slots.len() as u32,
                store.row_len() as u32,
                first as u32,
                len as u32,
            );
        }
        Ok(out)
    }
}
