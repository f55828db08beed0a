//! The Cube engine: `tether-core`'s `Engine` on any CubeCL runtime. Checks come before launches, because a launch that a device
//! cannot do may look like one that succeeded.

mod align;
mod attention;
mod batch;
mod blocks;
mod code_pages;
mod codec;
pub(crate) mod launch;
mod mass;
mod measure;
mod readback;
mod reuse;
pub(crate) mod spherical;
mod store;
mod tensor;
mod tokens;
mod units;
mod uploads;

use cubecl::prelude::*;
use tether_core::checks::{self, QueryExtents};
use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Rotation, Side, SlotId,
    StoreSpec, Summaries, Traffic, TrafficCounters,
};

pub use attention::CubeAttention;
pub use code_pages::CubeCodePages;
pub use codec::CubeCodes;
pub use readback::CubeReadback;
pub use reuse::{CubeReuseError, QueuedSignals};
pub use spherical::{CubeFrame, CubeSpherical};
pub use store::CubeStore;
pub use tensor::CubeTensor;
pub use tokens::{CubeIndices, CubePageTable, CubeRotation, CubeTables};

use crate::ops;
use crate::ops::attend::{self, Attention, Kernel, QueryList, Rows};
use launch::{uploaded, with_storage};

/// Keys, values and attention on a device of runtime `R`.
///
/// Work is queued and not waited for; only [`tether_core::Readback::wait`] waits.
pub struct Cube<R: Runtime> {
    client: ComputeClient<R>,
    name: &'static str,
    traffic: TrafficCounters,
    uploads: uploads::RecentUploads,
}

impl<R: Runtime> std::fmt::Debug for Cube<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cube")
            .field("name", &self.name)
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

impl<R: Runtime> Cube<R> {
    /// An engine on the device behind `client`.
    pub fn new(client: ComputeClient<R>) -> Self {
        let name = R::name(&client);
        Self { client, name, traffic: TrafficCounters::default(), uploads: uploads::RecentUploads::default() }
    }

    /// The device's client, for callers with kernels of their own on the same queue.
    pub fn client(&self) -> &ComputeClient<R> {
        &self.client
    }

    /// True when K and V can be stored and computed with in `dtype` on this device.
    pub fn supports(&self, dtype: DType) -> bool {
        let properties = self.client.properties();
        let usage =
            with_storage!(dtype, F => properties.type_usage(F::as_type_native_unchecked().storage_type()));
        usage.contains(cubecl::ir::features::TypeUsage::Buffer)
            && usage.contains(cubecl::ir::features::TypeUsage::Conversion)
            && (dtype != DType::BF16 || usage.contains(cubecl::ir::features::TypeUsage::Arithmetic))
    }

    pub(crate) fn require(&self, dtype: DType) -> Result<(), CoreError> {
        if self.supports(dtype) {
            return Ok(());
        }
        let feature = match dtype {
            DType::F32 => "f32 storage",
            DType::F16 => "f16 storage",
            DType::BF16 => "bf16 storage",
        };
        Err(CoreError::Unsupported { engine: self.name, feature })
    }

    fn slots(&self, slots: impl IntoIterator<Item = SlotId>) -> (cubecl::server::Handle, usize) {
        uploaded(&self.client, &slots.into_iter().map(|s| s.0).collect::<Vec<_>>())
    }
}

impl<R: Runtime> Engine for Cube<R> {
    type Tensor = CubeTensor;
    type Store = CubeStore;
    type Rotation = CubeRotation;
    type Read = CubeReadback;

    fn name(&self) -> &'static str {
        self.name
    }

    fn traffic(&self) -> Traffic {
        self.traffic.snapshot()
    }

    fn describe<'t>(&self, tensor: &'t CubeTensor) -> (&'t [usize], DType) {
        (&tensor.shape, tensor.dtype)
    }

    fn upload(&self, tensor: &HostTensor) -> Result<CubeTensor, CoreError> {
        self.require(tensor.dtype())?;
        let bytes = tensor.data().as_bytes();
        let handle = self.client.create_from_slice(if bytes.is_empty() { &[0; 4] } else { bytes });
        Ok(CubeTensor { handle, shape: tensor.shape().into(), dtype: tensor.dtype() })
    }

    fn read(&self, tensors: &[&CubeTensor]) -> Result<CubeReadback, CoreError> {
        let handles = tensors.iter().map(|t| t.handle.clone()).collect();
        let described = tensors.iter().map(|t| (t.shape.clone(), t.dtype)).collect();
        self.traffic.add(Traffic {
            read_back: tensors.iter().map(|t| (t.len() * t.dtype.bytes()) as u64).sum(),
            ..Traffic::default()
        });
        let client = self.client.clone();
        let copies = async move { client.read_async(handles).await };
        Ok(CubeReadback::queue(copies, described, self.name))
    }

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<CubeRotation, CoreError> {
        CubeRotation::new(&self.client, rotation)
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<CubeStore, CoreError> {
        self.new_store(spec)
    }

    fn grow_store(&self, store: &mut CubeStore, slots: usize) -> Result<(), CoreError> {
        if slots > store.spec.slots {
            let grown = self.grown_store(store, slots)?;
            let rotated = std::mem::replace(store, grown).rotated;
            store.rotated = rotated;
        }
        Ok(())
    }

    fn store_bytes(&self, store: &CubeStore) -> u64 {
        let elements = store.data_len(Side::Keys) + store.data_len(Side::Values);
        (elements * store.spec.dtype.bytes() + store.moments_len() * size_of::<f32>()) as u64
    }

    fn rotated_bytes(&self, store: &CubeStore) -> u64 {
        let places = store.rotated.as_ref().map_or(0, |rotated| rotated.capacity);
        (places * store.unit_len(Side::Keys) * store.spec.dtype.bytes()) as u64
    }

    fn forget_rotated(&self, store: &mut CubeStore) {
        store.rotated = None;
    }

    fn write(
        &self,
        store: &mut CubeStore,
        slots: &[SlotId],
        k: &CubeTensor,
        v: &CubeTensor,
        summaries: Summaries,
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        checks::slots(spec.slots, slots)?;
        checks::written(
            &spec,
            slots.len(),
            [("k", k.shape(), k.dtype, spec.head_dim_k), ("v", v.shape(), v.dtype, spec.head_dim_v)],
        )?;
        for (what, tensor) in [("k", k), ("v", v)] {
            checks::index_space(what, tensor.shape(), u32::MAX as usize)?;
        }
        if slots.is_empty() {
            return Ok(());
        }
        self.write_units(store, slots, (k, v), summaries);
        store.written(slots);
        let bytes = (k.len() + v.len()) * spec.dtype.bytes();
        self.traffic.add(Traffic { written: bytes as u64, ..Traffic::default() });
        Ok(())
    }

    fn check_finite(&self, _: &'static str, _: &CubeTensor) -> Result<(), CoreError> {
        // Looking would mean waiting: NaN comes back with the scores.
        Ok(())
    }

    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<CubeTensor, CoreError> {
        self.logits(queries)
    }

    fn align(&self, store: &mut CubeStore, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        checks::slots(store.spec.slots, jobs.iter().flat_map(|j| j.slots.iter().chain(&j.trusted)))?;
        self.align_units(store, tau, jobs);
        Ok(())
    }

    fn attend(
        &self,
        store: &mut CubeStore,
        rotation: Option<&CubeRotation>,
        q: &CubeTensor,
        tables: &[AttendTable<'_>],
        out: &mut CubeTensor,
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        let into = (out.shape(), out.dtype);
        let QueryExtents { tokens, heads, .. } =
            checks::attention(&spec, q.shape(), tables, rotation.map(|r| &r.extents), into)?;
        if rotation.is_some() && !spec.head_dim_k.is_multiple_of(2) {
            return Err(CoreError::Unsupported {
                engine: self.name,
                feature: "rotated heads of an odd number of channels",
            });
        }
        self.require(q.dtype)?;
        let head_dims = (spec.head_dim_k, spec.head_dim_v);
        let Some(kernel) = Kernel::of(&self.client, spec.dtype, head_dims) else {
            return Err(CoreError::Unsupported { engine: self.name, feature: "heads of this size" });
        };
        if let Some(rotation) = rotation {
            self.rotate_window(store, rotation, tables)?;
        }

        let slots: Vec<SlotId> = tables.iter().flat_map(|t| t.slots).copied().collect();
        let (slot_table, slots_len) = self.slots(slots.iter().copied());
        let prepared = self.prepared_queries(q, rotation, tables, (tokens, heads), &spec);
        // Keys that are not rotated are read where they lie.
        let in_order: Vec<u32> = (0..slots.len() as u32).collect();
        let rotated = store.rotated.as_ref().filter(|_| rotation.is_some());
        let (keys, (key_table, key_table_len)) = match rotated {
            Some(rotated) => {
                let len = rotated.capacity * store.unit_len(Side::Keys);
                ((&rotated.keys, len), uploaded(&self.client, &in_order))
            }
            None => ((&store.keys.data, store.data_len(Side::Keys)), (slot_table.clone(), slots_len)),
        };
        let units = tables.iter().map(|t| t.slots.len());
        let lists = units.enumerate().scan(0, |end, (sequence, units)| {
            let first_page = *end as u32;
            *end += units;
            let length = (units * spec.tokens_per_unit) as u32;
            let first_token = (sequence * tokens) as u32;
            let of_head = move |kv_head: usize| QueryList {
                first_page,
                first_token,
                tokens: tokens as u32,
                kv_head: kv_head as u32,
                seen: length,
                length,
            };
            Some((0..spec.kv_heads).map(of_head))
        });
        let lists: Vec<QueryList> = lists.flatten().collect();
        let attention = Attention {
            dtype: spec.dtype,
            head_dims,
            query_heads: heads,
            group: heads / spec.kv_heads,
            page_size: spec.tokens_per_unit,
            page_heads: spec.kv_heads,
            lists: &lists,
            keys,
            values: (&store.values.data, store.data_len(Side::Values)),
            key_pages: (&key_table, key_table_len),
            value_pages: (&slot_table, slots_len),
        };
        let rows = Rows::Prepared { q: (&prepared, q.len()), out: (&out.handle, out.len()) };
        attend::launch(&self.client, kernel, &attention, rows);
        Ok(())
    }

    fn gather(
        &self,
        store: &CubeStore,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&CubeRotation, &[u32])>,
    ) -> Result<CubeTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        if let Some((rotation, positions)) = rotation {
            checks::count("positions", slots.len(), positions.len())?;
            let wanted = positions.iter().map(|&p| p as usize);
            checks::rotation(&store.spec, store.spec.kv_heads, &rotation.extents, wanted)?;
        }
        let out = match rotation.filter(|_| side == Side::Keys) {
            Some(rotation) => self.gather_keys(store, slots, rotation)?,
            None => self.gather_plain(store, side, slots)?,
        };
        self.traffic.add(Traffic { gathered: (out.len() * out.dtype.bytes()) as u64, ..Traffic::default() });
        Ok(out)
    }

    fn moments(&self, store: &CubeStore, side: Side, slots: &[SlotId]) -> Result<CubeTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        self.gather_moments(store, side, slots)
    }
}

impl<R: Runtime> Cube<R> {
    /// Queries as `f32`, scaled, and rotated where there is a rotation.
    fn prepared_queries(
        &self,
        q: &CubeTensor,
        rotation: Option<&CubeRotation>,
        tables: &[AttendTable<'_>],
        (tokens, heads): (usize, usize),
        spec: &StoreSpec,
    ) -> cubecl::server::Handle {
        let starts: Vec<u32> = tables.iter().map(|t| t.query_position).collect();
        let (starts, starts_len) = uploaded(&self.client, &starts);
        let prepared = self.client.empty(q.len().max(1) * size_of::<f32>());
        let queries = ops::rotate::Queries {
            dtype: q.dtype,
            q: (&q.handle, q.len()),
            starts: (&starts, starts_len),
            tokens,
            heads,
            head_dim: spec.head_dim_k,
            unit_tokens: spec.tokens_per_unit,
        };
        let scale = 1.0 / (spec.head_dim_k as f32).sqrt();
        ops::rotate::launch_queries(&self.client, queries, rotation, scale, &prepared);
        prepared
    }
}
