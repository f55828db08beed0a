//! Whole units, such as frames of a video, as codes: an engine whose stores hold no numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tether_codec::{CodedRows, HadamardRotation, RowFrame, UnitCodec};
use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Rotation, RotationPhases, Side,
    SlotId, StoreSpec, Summaries, TensorData, Traffic, checks,
};

use crate::{Host, HostStore};

/// [`Host`] whose stores hold codes. What an operation looks at is decoded for as long as it takes, for one layer at a time; what it
/// changes is coded again. Statistics are those of what the codes stand for.
#[derive(Debug)]
pub struct CodedHost {
    host: Host,
    codec: UnitCodec,
}

/// One head of one unit.
#[derive(Debug)]
struct Coded {
    frame: RowFrame,
    rows: CodedRows,
}

/// Keys and values of one layer, as codes. Slots that nobody wrote to are zero, and take no memory.
#[derive(Debug)]
pub struct CodedStore {
    spec: StoreSpec,
    /// Heads of keys and heads of values of each slot.
    slots: Vec<Option<[Vec<Coded>; 2]>>,
    /// Rotations of keys and of values.
    rotations: [Arc<HadamardRotation>; 2],
}

impl CodedStore {
    fn dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.spec.head_dim_k,
            Side::Values => self.spec.head_dim_v,
        }
    }

    /// What slots hold, `[slots * tokens_per_unit, kv_heads, head_dim]` in the store's dtype.
    fn decoded(&self, side: Side, slots: &[SlotId]) -> Result<HostTensor, CoreError> {
        let (dim, heads, tokens) = (self.dim(side), self.spec.kv_heads, self.spec.tokens_per_unit);
        let mut out = vec![0f32; slots.len() * tokens * heads * dim];
        for (unit, slot) in out.chunks_exact_mut((tokens * heads * dim).max(1)).zip(slots) {
            let Some(coded) = &self.slots[slot.index()] else { continue };
            for (head, Coded { frame, rows }) in coded[side as usize].iter().enumerate() {
                let rows = rows.restored(frame)?;
                for (token, row) in unit.chunks_exact_mut(heads * dim).zip(rows.chunks_exact(dim)) {
                    token[head * dim..(head + 1) * dim].copy_from_slice(row);
                }
            }
        }
        HostTensor::new(&[slots.len() * tokens, heads, dim], TensorData::narrowed(self.spec.dtype, &out))
    }
}

/// Slots that an operation looks at, with numbers in them, and where each of them is there.
struct Scratch {
    store: HostStore,
    places: BTreeMap<u32, u32>,
}

impl Scratch {
    fn places(&self, slots: &[SlotId]) -> Vec<SlotId> {
        slots.iter().map(|slot| SlotId(self.places[&slot.0])).collect()
    }
}

impl CodedHost {
    /// An engine for units that are stored under `codec`.
    pub fn new(host: Host, codec: UnitCodec) -> Self {
        Self { host, codec }
    }

    /// The codec.
    pub fn codec(&self) -> &UnitCodec {
        &self.codec
    }

    /// Numbers for the slots of `lists`.
    fn scratch<'s>(
        &self,
        store: &CodedStore,
        lists: impl IntoIterator<Item = &'s SlotId>,
        summaries: Summaries,
    ) -> Result<Scratch, CoreError> {
        let mut places = BTreeMap::new();
        for slot in lists {
            checks::slots(store.slots.len(), [slot])?;
            places.insert(slot.0, 0);
        }
        (0..).zip(places.values_mut()).for_each(|(place, to)| *to = place);
        let slots: Vec<SlotId> = places.keys().map(|&slot| SlotId(slot)).collect();
        let mut dense = self.host.create_store(&StoreSpec { slots: slots.len(), ..store.spec })?;
        let (k, v) = (store.decoded(Side::Keys, &slots)?, store.decoded(Side::Values, &slots)?);
        let all: Vec<SlotId> = (0..slots.len() as u32).map(SlotId).collect();
        self.host.write(&mut dense, &all, &k, &v, summaries)?;
        Ok(Scratch { store: dense, places })
    }

    /// Codes one unit, `[tokens, kv_heads, head_dim]` of each side.
    fn coded(&self, store: &CodedStore, unit: [&[f32]; 2]) -> Result<[Vec<Coded>; 2], CoreError> {
        let heads = store.spec.kv_heads;
        let side = |side: Side| -> Result<Vec<Coded>, CoreError> {
            let (dim, codec) = (store.dim(side), self.codec.of(side));
            let head = |head: usize| {
                let tokens = unit[side as usize].chunks_exact(heads * dim);
                let rows: Vec<f32> = tokens.flat_map(|t| &t[head * dim..(head + 1) * dim]).copied().collect();
                let frame = RowFrame::of(codec, &rows, &store.rotations[side as usize])?;
                let rows = CodedRows::coded(codec, side, &frame, &rows)?;
                Ok(Coded { frame, rows })
            };
            (0..heads).map(head).collect()
        };
        Ok([side(Side::Keys)?, side(Side::Values)?])
    }

    /// Codes units that follow each other in `k` and `v` before any slot changes.
    fn store(
        &self,
        store: &mut CodedStore,
        slots: &[SlotId],
        k: &HostTensor,
        v: &HostTensor,
    ) -> Result<(), CoreError> {
        let (tokens, heads) = (store.spec.tokens_per_unit, store.spec.kv_heads);
        let mut made = Vec::with_capacity(slots.len());
        for unit in 0..slots.len() {
            let part = |x: &HostTensor, dim: usize| {
                let len = tokens * heads * dim;
                x.data().widened(unit * len..(unit + 1) * len).into_owned()
            };
            let (k, v) = (part(k, store.spec.head_dim_k), part(v, store.spec.head_dim_v));
            made.push(self.coded(store, [&k, &v])?);
        }
        for (slot, coded) in slots.iter().zip(made) {
            store.slots[slot.index()] = Some(coded);
        }
        Ok(())
    }
}

impl Engine for CodedHost {
    type Tensor = HostTensor;
    type Store = CodedStore;
    type Rotation = Arc<RotationPhases>;
    type Read = <Host as Engine>::Read;

    fn name(&self) -> &'static str {
        "host, coded"
    }

    fn stores_codes(&self) -> bool {
        true
    }

    fn traffic(&self) -> Traffic {
        self.host.traffic()
    }

    fn describe<'t>(&self, tensor: &'t HostTensor) -> (&'t [usize], DType) {
        self.host.describe(tensor)
    }

    fn upload(&self, tensor: &HostTensor) -> Result<HostTensor, CoreError> {
        self.host.upload(tensor)
    }

    fn read(&self, tensors: &[&HostTensor]) -> Result<Self::Read, CoreError> {
        self.host.read(tensors)
    }

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<Arc<RotationPhases>, CoreError> {
        self.host.upload_rotation(rotation)
    }

    fn check_finite(&self, what: &'static str, tensor: &HostTensor) -> Result<(), CoreError> {
        self.host.check_finite(what, tensor)
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<CodedStore, CoreError> {
        self.codec.validate(spec.head_dim_k, spec.head_dim_v)?;
        let rotation = |dim, seed| Arc::new(HadamardRotation::new(dim, seed));
        Ok(CodedStore {
            spec: *spec,
            slots: (0..spec.slots).map(|_| None).collect(),
            rotations: [rotation(spec.head_dim_k, 0), rotation(spec.head_dim_v, 1)],
        })
    }

    fn grow_store(&self, store: &mut CodedStore, slots: usize) -> Result<(), CoreError> {
        store.spec.slots = store.spec.slots.max(slots);
        store.slots.resize_with(store.spec.slots, || None);
        Ok(())
    }

    fn store_bytes(&self, store: &CodedStore) -> u64 {
        let coded = store.slots.iter().flatten().flatten().flatten();
        coded.map(|c| (c.frame.bytes() + c.rows.bytes()) as u64).sum()
    }

    fn rotated_bytes(&self, _store: &CodedStore) -> u64 {
        0
    }

    fn forget_rotated(&self, _store: &mut CodedStore) {}

    fn write(
        &self,
        store: &mut CodedStore,
        slots: &[SlotId],
        k: &HostTensor,
        v: &HostTensor,
        _summaries: Summaries,
    ) -> Result<(), CoreError> {
        let spec = store.spec;
        checks::slots(store.slots.len(), slots)?;
        let tensors =
            [("k", k.shape(), k.dtype(), spec.head_dim_k), ("v", v.shape(), v.dtype(), spec.head_dim_v)];
        checks::written(&spec, slots.len(), tensors)?;
        self.check_finite("k", k)?;
        self.check_finite("v", v)?;
        self.store(store, slots, k, v)
    }

    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<HostTensor, CoreError> {
        let mut work = Vec::with_capacity(queries.len());
        for &LogitQuery { store, q, candidates } in queries {
            let scratch = self.scratch(store, candidates.iter().flatten(), Summaries::Moments)?;
            let candidates: Vec<Vec<SlotId>> = candidates.iter().map(|c| scratch.places(c)).collect();
            work.push((scratch, q, candidates));
        }
        let queries: Vec<LogitQuery<'_, Host>> =
            work.iter().map(|(s, q, candidates)| LogitQuery { store: &s.store, q: *q, candidates }).collect();
        self.host.mean_logits_of(&queries)
    }

    fn align(&self, store: &mut CodedStore, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        let all = jobs.iter().flat_map(|j| j.slots.iter().chain(&j.trusted));
        let mut scratch = self.scratch(store, all, Summaries::Moments)?;
        let moved: Vec<AlignJob> = jobs
            .iter()
            .map(|j| AlignJob { slots: scratch.places(&j.slots), trusted: scratch.places(&j.trusted) })
            .collect();
        self.host.align(&mut scratch.store, tau, &moved)?;
        // A job without trusted slots changes nothing, and codes of codes would.
        let edited: Vec<SlotId> =
            jobs.iter().filter(|j| !j.trusted.is_empty()).flat_map(|j| j.slots.iter().copied()).collect();
        let places = scratch.places(&edited);
        let k = self.host.gather(&scratch.store, Side::Keys, &places, None)?;
        let v = self.host.gather(&scratch.store, Side::Values, &places, None)?;
        self.store(store, &edited, &k, &v)
    }

    fn attend(
        &self,
        store: &mut CodedStore,
        rotation: Option<&Arc<RotationPhases>>,
        q: &HostTensor,
        tables: &[AttendTable<'_>],
        out: &mut HostTensor,
    ) -> Result<(), CoreError> {
        let mut scratch = self.scratch(store, tables.iter().flat_map(|t| t.slots), Summaries::Skip)?;
        let slots: Vec<Vec<SlotId>> = tables.iter().map(|t| scratch.places(t.slots)).collect();
        let tables: Vec<AttendTable<'_>> =
            tables.iter().zip(&slots).map(|(table, slots)| AttendTable { slots, ..*table }).collect();
        self.host.attend(&mut scratch.store, rotation, q, &tables, out)
    }

    fn gather(
        &self,
        store: &CodedStore,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&Arc<RotationPhases>, &[u32])>,
    ) -> Result<HostTensor, CoreError> {
        let scratch = self.scratch(store, slots, Summaries::Skip)?;
        self.host.gather(&scratch.store, side, &scratch.places(slots), rotation)
    }

    fn moments(&self, store: &CodedStore, side: Side, slots: &[SlotId]) -> Result<HostTensor, CoreError> {
        let scratch = self.scratch(store, slots, Summaries::Moments)?;
        self.host.moments(&scratch.store, side, &scratch.places(slots))
    }
}
