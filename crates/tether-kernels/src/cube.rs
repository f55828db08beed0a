//! The Cube engine: `tether-core`'s `Engine` on any CubeCL runtime. Checks come before launches, because a launch that a device
//! cannot do may look like one that succeeded.

mod codec;
pub(crate) mod launch;
mod measure;
mod readback;
mod store;
mod tensor;
mod tokens;

use cubecl::prelude::*;
use tether_core::checks::{self, QueryExtents};
use tether_core::{
    AlignJob, AttendTable, ChannelAlignment, CoreError, DType, Engine, HostTensor, Pairing, PhaseExtents,
    PhaseTable, Side, SlotId, StoreSpec, Summaries, Traffic, TrafficCounters,
};

pub use codec::CubeCodes;
pub use readback::CubeReadback;
pub use store::CubeStore;
pub use tensor::CubeTensor;
pub use tokens::{CubeIndices, CubeRotation, CubeTables};

use crate::kernels::{align, attend, copy, mass, moments, rotate};
use launch::{array, flat, uploaded, with_storage};

/// Keys, values and attention on a device of runtime `R`.
///
/// Work is queued and not waited for; only [`tether_core::Readback::wait`] waits.
pub struct Cube<R: Runtime> {
    client: ComputeClient<R>,
    name: &'static str,
    traffic: TrafficCounters,
}

impl<R: Runtime> std::fmt::Debug for Cube<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cube")
            .field("name", &self.name)
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

/// A phase table on the device.
#[derive(Debug)]
pub struct CubePhases {
    unit: cubecl::server::Handle,
    token: cubecl::server::Handle,
    unit_len: usize,
    token_len: usize,
    positions: usize,
    tokens: usize,
    unit_pairs: u32,
    token_pairs: u32,
    half: bool,
}

impl CubePhases {
    fn extents(&self) -> PhaseExtents {
        let pairs = (self.unit_pairs + self.token_pairs) as usize;
        PhaseExtents { positions: self.positions, tokens: self.tokens, pairs }
    }
}

impl<R: Runtime> Cube<R> {
    /// An engine on the device behind `client`.
    pub fn new(client: ComputeClient<R>) -> Self {
        let name = R::name(&client);
        Self { client, name, traffic: TrafficCounters::default() }
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

    fn require(&self, dtype: DType) -> Result<(), CoreError> {
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

    fn zeros(&self, dtype: DType, len: usize) -> cubecl::server::Handle {
        let handle = self.client.empty(len.max(1) * dtype.bytes());
        let (count, dim) = flat(len);
        with_storage!(dtype, F => copy::fill_zero::launch::<F, R>(&self.client, count, dim, array(&handle, len)));
        handle
    }

    fn slots(&self, slots: impl IntoIterator<Item = SlotId>) -> (cubecl::server::Handle, usize) {
        uploaded(&self.client, &slots.into_iter().map(|s| s.0).collect::<Vec<_>>())
    }
}

impl<R: Runtime> Engine for Cube<R> {
    type Tensor = CubeTensor;
    type Store = CubeStore;
    type Phases = CubePhases;
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

    fn upload_phases(&self, table: &PhaseTable) -> Result<CubePhases, CoreError> {
        let up = |phases: &[[f32; 2]]| {
            let flat = phases.as_flattened();
            let flat = if flat.is_empty() { &[0.0, 0.0] } else { flat };
            (self.client.create_from_slice(f32::as_bytes(flat)), flat.len())
        };
        let (unit, unit_len) = up(table.unit_phases());
        let (token, token_len) = up(table.token_phases());
        Ok(CubePhases {
            unit,
            token,
            unit_len,
            token_len,
            positions: table.positions(),
            tokens: table.tokens(),
            unit_pairs: table.unit_pairs() as u32,
            token_pairs: table.token_pairs() as u32,
            half: table.pairing() == Pairing::Half,
        })
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<CubeStore, CoreError> {
        self.require(spec.dtype)?;
        let side = |head_dim: usize| -> Result<store::SideBuffers, CoreError> {
            // Kernels index with 32 bits.
            let factors = [spec.slots, spec.tokens_per_unit, spec.kv_heads, head_dim];
            let overflow = || CoreError::SizeOverflow { what: "store elements", factors: factors.into() };
            let len = factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f));
            let len = len.filter(|&n| u32::try_from(n).is_ok()).ok_or_else(overflow)?;
            let channels = spec.kv_heads * head_dim;
            let data = self.zeros(spec.dtype, len);
            let moments = self.zeros(DType::F32, spec.slots * 2 * channels);
            Ok(store::SideBuffers { data, moments, channels })
        };
        Ok(CubeStore { spec: *spec, keys: side(spec.head_dim_k)?, values: side(spec.head_dim_v)? })
    }

    fn grow_store(&self, store: &mut CubeStore, slots: usize) -> Result<(), CoreError> {
        if slots <= store.spec.slots {
            return Ok(());
        }
        let grown = self.create_store(&StoreSpec { slots, ..store.spec })?;
        for side in [Side::Keys, Side::Values] {
            let (from, to) = (store.side(side), grown.side(side));
            let (len, new_len) = (store.data_len(side), grown.data_len(side));
            let (count, dim) = flat(len);
            with_storage!(store.spec.dtype, F => copy::copy_prefix::launch::<F, R>(
                &self.client, count, dim, array(&from.data, len), array(&to.data, new_len),
            ));
            let (len, new_len) = (store.moments_len(side), grown.moments_len(side));
            let (count, dim) = flat(len);
            let (from, to) = (array(&from.moments, len), array(&to.moments, new_len));
            copy::copy_prefix::launch::<f32, R>(&self.client, count, dim, from, to);
            self.traffic.add(Traffic {
                grown: (store.data_len(side) * store.spec.dtype.bytes()) as u64,
                ..Traffic::default()
            });
        }
        *store = grown;
        Ok(())
    }

    fn store_bytes(&self, store: &CubeStore) -> u64 {
        let side =
            |s: Side| store.data_len(s) * store.spec.dtype.bytes() + store.moments_len(s) * size_of::<f32>();
        (side(Side::Keys) + side(Side::Values)) as u64
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
        if slots.is_empty() {
            return Ok(());
        }
        let (table, table_len) = self.slots(slots.iter().copied());
        for (side, tensor) in [(Side::Keys, k), (Side::Values, v)] {
            let (buffers, len) = (store.side(side), tensor.len());
            let (count, dim) = flat(len);
            let data = || array(&buffers.data, store.data_len(side));
            with_storage!(spec.dtype, F => copy::write_units::launch::<F, R>(
                &self.client, count, dim, array(&tensor.handle, len), array(&table, table_len), data(),
                store.unit_len(side) as u32,
            ));
            if summaries == Summaries::Moments {
                let count = CubeCount::Static(
                    (buffers.channels as u32).div_ceil(moments::CHANNELS),
                    slots.len() as u32,
                    1,
                );
                let dim = CubeDim::new_2d(moments::CHANNELS, moments::LANES);
                with_storage!(spec.dtype, F => moments::unit_moments::launch::<F, R>(
                    &self.client, count, dim, data(), array(&table, table_len),
                    array(&buffers.moments, store.moments_len(side)),
                    spec.tokens_per_unit as u32, buffers.channels as u32,
                ));
            }
            self.traffic.add(Traffic { written: (len * spec.dtype.bytes()) as u64, ..Traffic::default() });
        }
        Ok(())
    }

    fn check_finite(&self, _: &'static str, _: &CubeTensor) -> Result<(), CoreError> {
        // Looking would mean waiting: NaN comes back with the scores.
        Ok(())
    }

    fn mean_logits(
        &self,
        store: &CubeStore,
        q: &CubeTensor,
        candidates: &[Vec<SlotId>],
    ) -> Result<CubeTensor, CoreError> {
        let spec = &store.spec;
        let QueryExtents { sequences, tokens, heads } = checks::query(spec, q.shape())?;
        checks::count("candidate lists", sequences, candidates.len())?;
        checks::slots(spec.slots, candidates.iter().flatten())?;
        self.require(q.dtype)?;
        let total: usize = candidates.iter().map(Vec::len).sum();
        let handle = self.client.empty(total.max(1) * size_of::<f32>());
        let out = CubeTensor { handle, shape: [total].as_slice().into(), dtype: DType::F32 };
        if total == 0 {
            return Ok(out);
        }
        let channels = store.keys.channels;
        // Enough parts to fill a device, few enough to add up cheaply.
        let parts = (tokens as u32).div_ceil(mass::LANES * 16).clamp(1, 32);
        let sums_len = parts as usize * sequences * channels;
        let sums = self.client.empty(sums_len * size_of::<f32>());
        let count = CubeCount::Static((channels as u32).div_ceil(mass::CHANNELS), parts, sequences as u32);
        let dim = CubeDim::new_2d(mass::CHANNELS, mass::LANES);
        with_storage!(q.dtype, F => mass::query_sums::launch::<F, R>(
            &self.client, count, dim, array(&q.handle, q.len()), array(&sums, sums_len),
            tokens as u32, heads as u32, spec.kv_heads as u32, spec.head_dim_k as u32,
        ));
        let (slots, slots_len) = self.slots(candidates.iter().flatten().copied());
        let sequence_of: Vec<u32> =
            candidates.iter().enumerate().flat_map(|(s, c)| std::iter::repeat_n(s as u32, c.len())).collect();
        let (sequence_of, _) = uploaded(&self.client, &sequence_of);
        let scale = 1.0 / (tokens as f64 * heads as f64 * (spec.head_dim_k as f64).sqrt());
        mass::candidate_logits::launch::<R>(
            &self.client,
            CubeCount::Static(total as u32, 1, 1),
            CubeDim::new_1d(mass::THREADS),
            array(&sums, sums_len),
            array(&store.keys.moments, store.moments_len(Side::Keys)),
            array(&slots, slots_len),
            array(&sequence_of, slots_len),
            array(&out.handle, total),
            parts,
            sequences as u32,
            channels as u32,
            scale as f32,
        );
        Ok(out)
    }

    fn align(&self, store: &mut CubeStore, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        checks::slots(store.spec.slots, jobs.iter().flat_map(|j| j.slots.iter().chain(&j.trusted)))?;
        let jobs: Vec<&AlignJob> =
            jobs.iter().filter(|j| !j.slots.is_empty() && !j.trusted.is_empty()).collect();
        if jobs.is_empty() {
            return Ok(());
        }
        let rows = |list: fn(&AlignJob) -> &Vec<SlotId>| {
            let mut at = vec![0u32];
            let mut slots = Vec::new();
            for job in &jobs {
                slots.extend(list(job).iter().map(|s| s.0));
                at.push(slots.len() as u32);
            }
            (uploaded(&self.client, &slots), uploaded(&self.client, &at))
        };
        let ((own, own_len), (own_at, at_len)) = rows(|j| &j.slots);
        let ((trusted, trusted_len), (trusted_at, _)) = rows(|j| &j.trusted);
        let job_of: Vec<u32> =
            jobs.iter().enumerate().flat_map(|(i, j)| std::iter::repeat_n(i as u32, j.slots.len())).collect();
        let units = job_of.len();
        let (job_of, _) = uploaded(&self.client, &job_of);
        let tokens = store.spec.tokens_per_unit as u32;
        for side in [Side::Keys, Side::Values] {
            let buffers = store.side(side);
            let channels = buffers.channels;
            let statistics_len = jobs.len() * 4 * channels;
            let statistics = self.client.empty(statistics_len * size_of::<f32>());
            let moments = || array(&buffers.moments, store.moments_len(side));
            let (count, dim) = flat(jobs.len() * channels);
            align::job_statistics::launch::<R>(
                &self.client,
                count,
                dim,
                moments(),
                array(&own, own_len),
                array(&own_at, at_len),
                array(&trusted, trusted_len),
                array(&trusted_at, at_len),
                array(&statistics, statistics_len),
                tokens,
                channels as u32,
                ChannelAlignment::SD_FLOOR,
            );
            let len = units * store.unit_len(side);
            let (count, dim) = flat(len);
            with_storage!(store.spec.dtype, F => align::align_units::launch::<F, R>(
                &self.client, count, dim, array(&statistics, statistics_len), array(&own, own_len),
                array(&job_of, own_len), array(&buffers.data, store.data_len(side)), tokens, channels as u32, tau,
            ));
            let (count, dim) = flat(units * channels);
            align::align_moments::launch::<R>(
                &self.client,
                count,
                dim,
                array(&statistics, statistics_len),
                array(&own, own_len),
                array(&job_of, own_len),
                moments(),
                channels as u32,
                tau,
            );
            self.traffic
                .add(Traffic { edited: (len * store.spec.dtype.bytes()) as u64, ..Traffic::default() });
        }
        Ok(())
    }

    fn attend(
        &self,
        store: &CubeStore,
        phases: Option<&CubePhases>,
        q: &CubeTensor,
        tables: &[AttendTable<'_>],
        out: &mut CubeTensor,
    ) -> Result<(), CoreError> {
        let spec = &store.spec;
        let into = (out.shape(), out.dtype);
        let QueryExtents { sequences, tokens, heads } =
            checks::attention(spec, q.shape(), tables, phases.map(CubePhases::extents), into)?;
        if let Some(phases) = phases {
            self.require_whole_heads(phases, spec)?;
        }
        self.require(q.dtype)?;
        let widest = spec.head_dim_k + spec.head_dim_v;
        let shared = self.client.properties().hardware.max_shared_memory_size / size_of::<f32>();
        // 32 KiB is what every device has.
        let tile = [32usize, 16, 8, 4, 2, 1].into_iter().find(|t| t * widest <= shared.min(8192));
        let Some(tile) = tile else {
            return Err(CoreError::Unsupported { engine: self.name, feature: "heads of this size" });
        };

        let slots: Vec<SlotId> = tables.iter().flat_map(|t| t.slots).copied().collect();
        let positions: Vec<u32> = tables.iter().flat_map(|t| t.positions).copied().collect();
        let keys = self.gather_keys(store, &slots, phases.map(|p| (p, positions.as_slice())))?;
        let (slot_table, slots_len) = self.slots(slots.iter().copied());
        let mut first_unit = vec![0u32];
        for table in tables {
            first_unit.push(first_unit[first_unit.len() - 1] + table.slots.len() as u32);
        }
        let (first_unit, first_len) = uploaded(&self.client, &first_unit);
        let prepared = self.prepared_queries(q, phases, tables, (tokens, heads), spec)?;

        let group = heads / spec.kv_heads;
        let count = CubeCount::Static(
            ((group * tokens) as u32).div_ceil(attend::ROWS),
            spec.kv_heads as u32,
            sequences as u32,
        );
        with_storage!(spec.dtype, F => attend::attend_rows::launch::<F, R>(
            &self.client, count, CubeDim::new_1d(attend::ROWS), array(&prepared, q.len()),
            array(&keys.handle, keys.len()), array(&store.values.data, store.data_len(Side::Values)),
            array(&slot_table, slots_len), array(&first_unit, first_len), array(&out.handle, out.len()),
            tokens as u32, spec.tokens_per_unit as u32, spec.kv_heads as u32, group as u32,
            spec.head_dim_k as u32, spec.head_dim_v as u32, tile as u32,
        ));
        Ok(())
    }

    fn gather(
        &self,
        store: &CubeStore,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&CubePhases, &[u32])>,
    ) -> Result<CubeTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        if let Some((phases, positions)) = rotation {
            checks::count("positions", slots.len(), positions.len())?;
            checks::phases(&store.spec, phases.extents(), positions.iter().map(|&p| p as usize))?;
            self.require_whole_heads(phases, &store.spec)?;
        }
        let out = match side {
            Side::Keys => self.gather_keys(store, slots, rotation)?,
            Side::Values => self.gather_plain(store, side, slots),
        };
        self.traffic.add(Traffic { gathered: (out.len() * out.dtype.bytes()) as u64, ..Traffic::default() });
        Ok(out)
    }

    fn moments(&self, store: &CubeStore, side: Side, slots: &[SlotId]) -> Result<CubeTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        let buffers = store.side(side);
        let shape = [slots.len(), 2, buffers.channels];
        let len: usize = shape.iter().product();
        let handle = self.client.empty(len.max(1) * size_of::<f32>());
        let (table, table_len) = self.slots(slots.iter().copied());
        let (count, dim) = flat(len);
        moments::gather_moments::launch::<R>(
            &self.client,
            count,
            dim,
            array(&buffers.moments, store.moments_len(side)),
            array(&table, table_len),
            array(&handle, len),
            2 * buffers.channels as u32,
        );
        Ok(CubeTensor { handle, shape: shape.as_slice().into(), dtype: DType::F32 })
    }
}

impl<R: Runtime> Cube<R> {
    /// Kernels rotate all of a head or none of it.
    fn require_whole_heads(&self, phases: &CubePhases, spec: &StoreSpec) -> Result<(), CoreError> {
        if 2 * phases.extents().pairs == spec.head_dim_k {
            return Ok(());
        }
        Err(CoreError::Unsupported { engine: self.name, feature: "heads that are rotated in part" })
    }

    fn gather_plain(&self, store: &CubeStore, side: Side, slots: &[SlotId]) -> CubeTensor {
        let spec = &store.spec;
        let len = slots.len() * store.unit_len(side);
        let handle = self.client.empty(len.max(1) * spec.dtype.bytes());
        let (table, table_len) = self.slots(slots.iter().copied());
        let (count, dim) = flat(len);
        with_storage!(spec.dtype, F => copy::gather_units::launch::<F, R>(
            &self.client, count, dim, array(&store.side(side).data, store.data_len(side)),
            array(&table, table_len), array(&handle, len), store.unit_len(side) as u32,
        ));
        let shape = [slots.len() * spec.tokens_per_unit, spec.kv_heads, store.head_dim(side)];
        CubeTensor { handle, shape: shape.as_slice().into(), dtype: spec.dtype }
    }

    /// Keys in the order of `slots`, rotated where there is a rotation. Arguments are checked.
    fn gather_keys(
        &self,
        store: &CubeStore,
        slots: &[SlotId],
        rotation: Option<(&CubePhases, &[u32])>,
    ) -> Result<CubeTensor, CoreError> {
        let Some((phases, positions)) = rotation else {
            return Ok(self.gather_plain(store, Side::Keys, slots));
        };
        let spec = &store.spec;
        let len = slots.len() * store.unit_len(Side::Keys);
        let handle = self.client.empty(len.max(1) * spec.dtype.bytes());
        let (table, table_len) = self.slots(slots.iter().copied());
        let (positions, positions_len) = uploaded(&self.client, positions);
        let (count, dim) = flat(len / 2);
        with_storage!(spec.dtype, F => rotate::gather_rotated::launch::<F, R>(
            &self.client, count, dim, array(&store.keys.data, store.data_len(Side::Keys)),
            array(&table, table_len), array(&positions, positions_len),
            array(&phases.unit, phases.unit_len), array(&phases.token, phases.token_len), array(&handle, len),
            spec.tokens_per_unit as u32, spec.kv_heads as u32, phases.unit_pairs, phases.token_pairs, phases.half,
        ));
        let shape = [slots.len() * spec.tokens_per_unit, spec.kv_heads, spec.head_dim_k];
        Ok(CubeTensor { handle, shape: shape.as_slice().into(), dtype: spec.dtype })
    }

    /// Queries as `f32`, scaled, and rotated where there are phases.
    fn prepared_queries(
        &self,
        q: &CubeTensor,
        phases: Option<&CubePhases>,
        tables: &[AttendTable<'_>],
        (tokens, heads): (usize, usize),
        spec: &StoreSpec,
    ) -> Result<cubecl::server::Handle, CoreError> {
        let starts: Vec<u32> = tables.iter().map(|t| t.query_position).collect();
        let (starts, starts_len) = uploaded(&self.client, &starts);
        let prepared = self.client.empty(q.len().max(1) * size_of::<f32>());
        let none = || (self.client.create_from_slice(f32::as_bytes(&[0.0, 0.0])), 2);
        let ((unit, unit_len), (token, token_len)) = match phases {
            Some(p) => ((p.unit.clone(), p.unit_len), (p.token.clone(), p.token_len)),
            None => (none(), none()),
        };
        let (count, dim) = flat(if phases.is_some() { q.len() / 2 } else { q.len() });
        let scale = 1.0 / (spec.head_dim_k as f32).sqrt();
        with_storage!(q.dtype, F => rotate::prepare_queries::launch::<F, R>(
            &self.client, count, dim, array(&q.handle, q.len()), array(&starts, starts_len), array(&unit, unit_len),
            array(&token, token_len), array(&prepared, q.len()), tokens as u32, spec.tokens_per_unit as u32,
            heads as u32, phases.map_or(0, |p| p.unit_pairs), phases.map_or(0, |p| p.token_pairs), scale,
            phases.is_some(), phases.is_some_and(|p| p.half),
        ));
        Ok(prepared)
    }
}
