//! The host engine: every operation in plain Rust, in `f32`. It is the default engine and the reference that kernels are held to.

use std::sync::Arc;

use rayon::prelude::*;
use tether_core::checks::{self, QueryExtents};
use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Moments, Readback, Rotation,
    RotationPhases, Side, SlotId, StoreSpec, Summaries, TensorData, Traffic, TrafficCounters, mean_logits,
    mean_query,
};

use crate::rotated::rotate_tokens;
use crate::{HostStore, align, attend, store};

/// Keys, values and attention in host memory.
///
/// Single-threaded unless made with [`Host::parallel`]; the numbers are the same either way.
#[derive(Debug, Default)]
pub struct Host {
    pub(crate) parallel: bool,
    pub(crate) traffic: TrafficCounters,
}

impl Host {
    /// An engine that works in the calling thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine that spreads heads and rows over rayon's global pool.
    ///
    /// A call from outside the pool waits until one of its threads has woken, which a decode step of a few microseconds a layer feels. Decode inside
    /// `rayon::ThreadPool::install`, or make the thread one of the pool with `rayon::ThreadPoolBuilder::use_current_thread`, as the command line does.
    pub fn parallel() -> Self {
        Self { parallel: true, ..Self::default() }
    }

    /// Whether it was made with [`Host::parallel`].
    pub fn is_parallel(&self) -> bool {
        self.parallel
    }
}

/// Host results are there at once.
#[derive(Debug)]
pub struct Ready(Vec<HostTensor>);

impl Readback for Ready {
    fn wait(self) -> Result<Vec<HostTensor>, CoreError> {
        Ok(self.0)
    }
}

impl Engine for Host {
    type Tensor = HostTensor;
    type Store = HostStore;
    type Rotation = Arc<RotationPhases>;
    type Read = Ready;

    fn name(&self) -> &'static str {
        "host"
    }

    fn traffic(&self) -> Traffic {
        self.traffic.snapshot()
    }

    fn describe<'t>(&self, tensor: &'t HostTensor) -> (&'t [usize], DType) {
        (tensor.shape(), tensor.dtype())
    }

    fn upload(&self, tensor: &HostTensor) -> Result<HostTensor, CoreError> {
        Ok(tensor.clone())
    }

    fn read(&self, tensors: &[&HostTensor]) -> Result<Ready, CoreError> {
        let bytes: usize = tensors.iter().map(|t| t.data().as_bytes().len()).sum();
        self.traffic.add(Traffic { read_back: bytes as u64, ..Traffic::default() });
        Ok(Ready(tensors.iter().map(|&t| t.clone()).collect()))
    }

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<Arc<RotationPhases>, CoreError> {
        RotationPhases::new(rotation).map(Arc::new)
    }

    fn check_finite(&self, what: &'static str, tensor: &HostTensor) -> Result<(), CoreError> {
        match tensor.data().first_non_finite() {
            Some(index) => Err(CoreError::NonFinite { what, index }),
            None => Ok(()),
        }
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<HostStore, CoreError> {
        HostStore::new(spec)
    }

    fn grow_store(&self, store: &mut HostStore, slots: usize) -> Result<(), CoreError> {
        if slots > store.spec.slots {
            let copied = store.grow(slots)?;
            self.traffic.add(Traffic { grown: copied, ..Traffic::default() });
        }
        Ok(())
    }

    fn store_bytes(&self, store: &HostStore) -> u64 {
        store.bytes()
    }

    fn rotated_bytes(&self, store: &HostStore) -> u64 {
        store.rotated.as_ref().map_or(0, |rotated| rotated.bytes())
    }

    fn forget_rotated(&self, store: &mut HostStore) {
        store.rotated = None;
    }

    fn write(
        &self,
        store: &mut HostStore,
        slots: &[SlotId],
        k: &HostTensor,
        v: &HostTensor,
        summaries: Summaries,
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        checks::slots(spec.slots, slots)?;
        checks::written(
            &spec,
            slots.len(),
            [("k", k.shape(), k.dtype(), spec.head_dim_k), ("v", v.shape(), v.dtype(), spec.head_dim_v)],
        )?;
        self.check_finite("k", k)?;
        self.check_finite("v", v)?;
        let mut moments = Vec::new();
        if summaries == Summaries::Moments {
            for unit in 0..slots.len() {
                for (what, side, tensor) in [("k", Side::Keys, k), ("v", Side::Values, v)] {
                    let channels = store.channels(side);
                    let len = spec.tokens_per_unit * channels;
                    let of_unit =
                        Moments::of_tokens(&tensor.data().widened(unit * len..(unit + 1) * len), channels);
                    // Numbers near the end of the range: their squares do not fit.
                    if let Some(index) = of_unit.m2.iter().position(|x| !x.is_finite()) {
                        return Err(CoreError::NonFinite { what, index: unit * len + index });
                    }
                    moments.push(of_unit);
                }
            }
        }
        let mut moments = moments.into_iter();
        for (unit, &slot) in slots.iter().enumerate() {
            for (side, tensor) in [(Side::Keys, k), (Side::Values, v)] {
                store.write_unit(side, slot, tensor.data(), unit);
                if let Some(of_unit) = moments.next() {
                    let (mean, m2) = store.moments_mut(side, slot);
                    mean.copy_from_slice(&of_unit.mean);
                    m2.copy_from_slice(&of_unit.m2);
                }
            }
        }
        self.traffic.add(Traffic {
            written: (k.data().as_bytes().len() + v.data().as_bytes().len()) as u64,
            ..Traffic::default()
        });
        Ok(())
    }

    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<HostTensor, CoreError> {
        let mut extents = Vec::with_capacity(queries.len());
        for &LogitQuery { store, q, candidates } in queries {
            let of_query = checks::query(&store.spec, q.shape())?;
            checks::count("candidate lists", of_query.sequences, candidates.len())?;
            checks::slots(store.spec.slots, candidates.iter().flatten())?;
            extents.push(of_query);
        }
        let mut logits = Vec::new();
        for (&LogitQuery { store, q, candidates }, extents) in queries.iter().zip(extents) {
            let (dim, kv_heads) = (store.spec.head_dim_k, store.spec.kv_heads);
            let QueryExtents { tokens, heads, .. } = extents;
            let per_sequence = tokens * heads * dim;
            let wide = q.data().widened(0..q.len());
            for (sequence, slots) in candidates.iter().enumerate() {
                let query =
                    mean_query(&wide[sequence * per_sequence..][..per_sequence], heads, kv_heads, dim);
                let means = slots.iter().map(|&slot| store.moments(Side::Keys, slot).mean);
                logits.extend(mean_logits(&query, heads, dim, means));
            }
        }
        HostTensor::from_f32(&[logits.len()], logits)
    }

    fn align(&self, store: &mut HostStore, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        checks::slots(store.spec.slots, jobs.iter().flat_map(|j| j.slots.iter().chain(&j.trusted)))?;
        for unit in align::edited_units(store, tau, jobs)? {
            self.traffic.add(Traffic { edited: unit.apply(store) as u64, ..Traffic::default() });
        }
        Ok(())
    }

    fn attend(
        &self,
        store: &mut HostStore,
        rotation: Option<&Arc<RotationPhases>>,
        q: &HostTensor,
        tables: &[AttendTable<'_>],
        out: &mut HostTensor,
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        let into = (out.shape(), out.dtype());
        let QueryExtents { sequences, tokens, heads } =
            checks::attention(&spec, q.shape(), tables, rotation.map(|r| r.extents()), into)?;
        let got = out.dtype();
        let Some(result) = out.as_f32_mut() else {
            return Err(CoreError::DTypeMismatch { what: "out", expected: DType::F32, got });
        };
        let mut wide = q.data().widened(0..q.len());
        if let Some(rotation) = rotation {
            self.traffic.add(store.rotate_window(rotation, tables, self.parallel)?);
            let (rotated_heads, dim) = spec.rotated_heads(rotation.extents());
            let as_seen = (heads / spec.kv_heads * rotated_heads, dim);
            let of_sequence = (tokens * heads * spec.head_dim_k).max(1);
            for (table, q) in tables.iter().zip(wide.to_mut().chunks_exact_mut(of_sequence)) {
                let first = table.query_position as usize * spec.tokens_per_unit;
                rotate_tokens(rotation, q, as_seen, |token| first + token);
            }
        }
        let store = &*store;
        let mut places = 0;
        let keys: Vec<attend::Keys<'_>> = tables
            .iter()
            .map(|&table| {
                places += table.slots.len();
                let rotated_from = rotation.map(|_| places - table.slots.len());
                attend::Keys { store, table, rotated_from }
            })
            .collect();
        let queries = attend::Queries { q: &wide, tokens, heads };
        let dv = spec.head_dim_v;
        let groups: Vec<(usize, usize)> =
            (0..sequences).flat_map(|s| (0..spec.kv_heads).map(move |h| (s, h))).collect();
        let row =
            |sequence: usize, token: usize, head: usize| ((sequence * tokens + token) * heads + head) * dv;
        if self.parallel {
            let parts: Vec<Vec<(usize, Vec<f32>)>> = groups
                .par_iter()
                .map(|&(sequence, kv_head)| {
                    let mut part = Vec::with_capacity(tokens * heads / spec.kv_heads);
                    attend::attend_group(keys[sequence], queries, (sequence, kv_head), |token, head, x| {
                        part.push((row(sequence, token, head), x.to_vec()));
                    });
                    part
                })
                .collect();
            for (start, x) in parts.into_iter().flatten() {
                result[start..start + dv].copy_from_slice(&x);
            }
        } else {
            for (sequence, kv_head) in groups {
                attend::attend_group(keys[sequence], queries, (sequence, kv_head), |token, head, x| {
                    result[row(sequence, token, head)..][..dv].copy_from_slice(x);
                });
            }
        }
        Ok(())
    }

    fn gather(
        &self,
        store: &HostStore,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&Arc<RotationPhases>, &[u32])>,
    ) -> Result<HostTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        if let Some((rotation, positions)) = rotation {
            checks::count("positions", slots.len(), positions.len())?;
            let wanted = positions.iter().map(|&p| p as usize);
            checks::rotation(&store.spec, store.spec.kv_heads, rotation.extents(), wanted)?;
        }
        let (tokens, dim) = (store.spec.tokens_per_unit, store.head_dim(side));
        let shape = [slots.len() * tokens, store.spec.kv_heads, dim];
        let len = checks::element_count(&shape)?;
        let mut data = TensorData::zeros(store.spec.dtype, len)?;
        let mut unit = Vec::new();
        for (i, &slot) in slots.iter().enumerate() {
            match rotation {
                Some((rotation, positions)) if side == Side::Keys => {
                    store.unit_f32(side, slot, &mut unit);
                    let heads = store.spec.rotated_heads(rotation.extents());
                    let first = positions[i] as usize * tokens;
                    rotate_tokens(rotation, &mut unit, heads, |token| first + token);
                    store::copy_elements(
                        data.elements_mut(),
                        i * unit.len(),
                        &TensorData::narrowed(store.spec.dtype, &unit),
                        0,
                        unit.len(),
                    );
                }
                _ => store.read_unit(side, slot, &mut data, i),
            }
        }
        self.traffic.add(Traffic { gathered: data.as_bytes().len() as u64, ..Traffic::default() });
        HostTensor::new(&shape, data)
    }

    fn moments(&self, store: &HostStore, side: Side, slots: &[SlotId]) -> Result<HostTensor, CoreError> {
        checks::slots(store.spec.slots, slots)?;
        let mut out = Vec::with_capacity(slots.len() * 2 * store.channels(side));
        for &slot in slots {
            let moments = store.moments(side, slot);
            out.extend_from_slice(moments.mean);
            out.extend_from_slice(moments.m2);
        }
        HostTensor::from_f32(&[slots.len(), 2, store.channels(side)], out)
    }
}
