//! The host engine: every operation in plain Rust, in `f32`. It is the default engine and the reference that kernels are held to.

mod align;
mod attend;
mod exp;
mod mass;
mod matmul;
mod store;

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

pub use exp::exp;
pub use mass::{mean_logits, mean_query};
pub use matmul::{MatRef, matmul};
pub use store::HostStore;

use crate::engine::{AttendTable, Readback, Side, StoreSpec, Summaries, Traffic};
use crate::{AlignJob, CoreError, DType, Engine, HostTensor, Moments, PhaseTable, SlotId, TensorData};

/// Keys, values and attention in host memory.
///
/// Single-threaded unless made with [`Host::parallel`]; the numbers are the same either way.
#[derive(Debug, Default)]
pub struct Host {
    parallel: bool,
    traffic: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    edited: AtomicU64,
    gathered: AtomicU64,
    grown: AtomicU64,
    read_back: AtomicU64,
}

impl Host {
    /// An engine that works in the calling thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine that spreads attention heads over rayon's global pool.
    pub fn parallel() -> Self {
        Self { parallel: true, ..Self::default() }
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

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn expect_shape(what: &'static str, tensor: &HostTensor, expected: &[usize]) -> Result<(), CoreError> {
    // A leading axis of one sequence may be written or left out.
    let got = tensor.shape();
    if got == expected || (got.len() == expected.len() + 1 && got[0] == 1 && got[1..] == *expected) {
        Ok(())
    } else {
        Err(CoreError::ShapeMismatch { what, expected: expected.into(), got: got.into() })
    }
}

fn expect_count(what: &'static str, expected: usize, got: usize) -> Result<(), CoreError> {
    if expected == got { Ok(()) } else { Err(CoreError::Count { what, expected, got }) }
}

/// `(sequences, tokens, heads)` of `[tokens, heads, dim]` or `[sequences, tokens, heads, dim]`.
fn query_extents(q: &HostTensor, dim: usize, kv_heads: usize) -> Result<(usize, usize, usize), CoreError> {
    let (sequences, tokens, heads) = match *q.shape() {
        [tokens, heads, d] if d == dim => (1, tokens, heads),
        [sequences, tokens, heads, d] if d == dim => (sequences, tokens, heads),
        ref got => {
            let expected = [0, kv_heads, dim].into();
            return Err(CoreError::ShapeMismatch { what: "q", expected, got: got.into() });
        }
    };
    if heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(CoreError::Geometry {
            field: "query_heads",
            value: heads,
            requirement: "must be a multiple of kv_heads",
        });
    }
    Ok((sequences, tokens, heads))
}

fn check_positions(phases: &PhaseTable, positions: impl IntoIterator<Item = usize>) -> Result<(), CoreError> {
    match positions.into_iter().find(|&p| p >= phases.positions()) {
        Some(position) => Err(CoreError::PositionOutOfTable { position, positions: phases.positions() }),
        None => Ok(()),
    }
}

fn check_phases(phases: &PhaseTable, spec: &StoreSpec) -> Result<(), CoreError> {
    expect_count("tokens of the phase table", spec.tokens_per_unit, phases.tokens())?;
    if 2 * phases.pairs() > spec.head_dim_k {
        return Err(CoreError::Count {
            what: "pairs of a head",
            expected: spec.head_dim_k / 2,
            got: phases.pairs(),
        });
    }
    Ok(())
}

impl Engine for Host {
    type Tensor = HostTensor;
    type Store = HostStore;
    type Phases = PhaseTable;
    type Read = Ready;

    fn name(&self) -> &'static str {
        "host"
    }

    fn traffic(&self) -> Traffic {
        let t = &self.traffic;
        Traffic {
            written: t.written.load(Ordering::Relaxed),
            edited: t.edited.load(Ordering::Relaxed),
            gathered: t.gathered.load(Ordering::Relaxed),
            grown: t.grown.load(Ordering::Relaxed),
            read_back: t.read_back.load(Ordering::Relaxed),
        }
    }

    fn describe<'t>(&self, tensor: &'t HostTensor) -> (&'t [usize], DType) {
        (tensor.shape(), tensor.dtype())
    }

    fn upload(&self, tensor: &HostTensor) -> Result<HostTensor, CoreError> {
        Ok(tensor.clone())
    }

    fn read(&self, tensors: &[&HostTensor]) -> Result<Ready, CoreError> {
        let bytes = tensors.iter().map(|t| t.data().as_bytes().len()).sum();
        add(&self.traffic.read_back, bytes);
        Ok(Ready(tensors.iter().map(|&t| t.clone()).collect()))
    }

    fn upload_phases(&self, table: &PhaseTable) -> Result<PhaseTable, CoreError> {
        Ok(table.clone())
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
            self.traffic.grown.fetch_add(copied, Ordering::Relaxed);
        }
        Ok(())
    }

    fn store_bytes(&self, store: &HostStore) -> u64 {
        store.bytes()
    }

    fn write(
        &self,
        store: &mut HostStore,
        slots: &[SlotId],
        k: &HostTensor,
        v: &HostTensor,
        summaries: Summaries,
    ) -> Result<(), CoreError> {
        store.check_slots(slots)?;
        let spec = store.spec;
        for (what, tensor, dim) in [("k", k, spec.head_dim_k), ("v", v, spec.head_dim_v)] {
            store.check_dtype(what, tensor.dtype())?;
            let tokens = slots.len() * spec.tokens_per_unit;
            let shape = tensor.shape();
            if shape.len() == 4 && shape[0] > 1 {
                let per_sequence = tokens / shape[0];
                let expected: Box<[usize]> = [shape[0], per_sequence, spec.kv_heads, dim].into();
                if *shape != *expected || per_sequence * shape[0] != tokens {
                    return Err(CoreError::ShapeMismatch { what, expected, got: shape.into() });
                }
            } else {
                expect_shape(what, tensor, &[tokens, spec.kv_heads, dim])?;
            }
            self.check_finite(what, tensor)?;
        }
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
        add(&self.traffic.written, k.data().as_bytes().len() + v.data().as_bytes().len());
        Ok(())
    }

    fn mean_logits(
        &self,
        store: &HostStore,
        q: &HostTensor,
        candidates: &[Vec<SlotId>],
    ) -> Result<HostTensor, CoreError> {
        let (dim, kv_heads) = (store.spec.head_dim_k, store.spec.kv_heads);
        let (sequences, tokens, heads) = query_extents(q, dim, kv_heads)?;
        expect_count("candidate lists", sequences, candidates.len())?;
        candidates.iter().try_for_each(|slots| store.check_slots(slots))?;
        let per_sequence = tokens * heads * dim;
        let wide = q.data().widened(0..q.len());
        let mut logits = Vec::with_capacity(candidates.iter().map(Vec::len).sum());
        for (sequence, slots) in candidates.iter().enumerate() {
            let query = mean_query(&wide[sequence * per_sequence..][..per_sequence], heads, kv_heads, dim);
            let means = slots.iter().map(|&slot| store.moments(Side::Keys, slot).mean);
            logits.extend(mean_logits(&query, heads, dim, means));
        }
        HostTensor::from_f32(&[logits.len()], logits)
    }

    fn align(&self, store: &mut HostStore, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        for job in jobs {
            store.check_slots(&job.slots)?;
            store.check_slots(&job.trusted)?;
        }
        for unit in align::edited_units(store, tau, jobs)? {
            add(&self.traffic.edited, unit.apply(store));
        }
        Ok(())
    }

    fn attend(
        &self,
        store: &HostStore,
        phases: Option<&PhaseTable>,
        q: &HostTensor,
        tables: &[AttendTable<'_>],
        out: &mut HostTensor,
    ) -> Result<(), CoreError> {
        let spec = &store.spec;
        let (sequences, tokens, heads) = query_extents(q, spec.head_dim_k, spec.kv_heads)?;
        expect_count("attention tables", sequences, tables.len())?;
        for table in tables {
            store.check_slots(table.slots)?;
            expect_count("positions of a table", table.slots.len(), table.positions.len())?;
            if table.slots.is_empty() {
                return Err(CoreError::Count { what: "slots to attend to", expected: 1, got: 0 });
            }
        }
        if let Some(phases) = phases {
            check_phases(phases, spec)?;
            let query_units = tokens.div_ceil(spec.tokens_per_unit);
            for table in tables {
                let last_query = (table.query_position as usize + query_units).saturating_sub(1);
                check_positions(phases, table.positions.iter().map(|&p| p as usize).chain([last_query]))?;
            }
        }
        let mut expected = crate::Shape::from_slice(q.shape());
        *expected.last_mut().expect("query_extents should have seen three axes") = spec.head_dim_v;
        if out.shape() != expected.as_slice() {
            let expected = expected.as_slice().into();
            return Err(CoreError::ShapeMismatch { what: "out", expected, got: out.shape().into() });
        }
        let got = out.dtype();
        let Some(result) = out.as_f32_mut() else {
            return Err(CoreError::DTypeMismatch { what: "out", expected: DType::F32, got });
        };
        let queries = attend::Queries { q, tokens, heads };
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
                    let table = &tables[sequence];
                    attend::attend_group(
                        store,
                        phases,
                        queries,
                        (sequence, kv_head),
                        table,
                        |token, head, x| {
                            part.push((row(sequence, token, head), x.to_vec()));
                        },
                    );
                    part
                })
                .collect();
            for (start, x) in parts.into_iter().flatten() {
                result[start..start + dv].copy_from_slice(&x);
            }
        } else {
            for (sequence, kv_head) in groups {
                let table = &tables[sequence];
                attend::attend_group(store, phases, queries, (sequence, kv_head), table, |token, head, x| {
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
        rotation: Option<(&PhaseTable, &[u32])>,
    ) -> Result<HostTensor, CoreError> {
        store.check_slots(slots)?;
        if let Some((phases, positions)) = rotation {
            check_phases(phases, &store.spec)?;
            expect_count("positions", slots.len(), positions.len())?;
            check_positions(phases, positions.iter().map(|&p| p as usize))?;
        }
        let (tokens, dim) = (store.spec.tokens_per_unit, store.head_dim(side));
        let shape = [slots.len() * tokens, store.spec.kv_heads, dim];
        let len = crate::tensor::element_count(&shape)?;
        let mut data = TensorData::zeros(store.spec.dtype, len)?;
        let mut unit = Vec::new();
        for (i, &slot) in slots.iter().enumerate() {
            match rotation {
                Some((phases, positions)) if side == Side::Keys => {
                    store.unit_f32(side, slot, &mut unit);
                    for (t, token) in unit.chunks_exact_mut(store.channels(side)).enumerate() {
                        for head in token.chunks_exact_mut(dim) {
                            phases.rotate(head, positions[i] as usize, t);
                        }
                    }
                    store::copy_elements(
                        &mut data,
                        i * unit.len(),
                        &store::narrowed(store.spec.dtype, &unit),
                        0,
                        unit.len(),
                    );
                }
                _ => store.read_unit(side, slot, &mut data, i),
            }
        }
        add(&self.traffic.gathered, data.as_bytes().len());
        HostTensor::new(&shape, data)
    }

    fn moments(&self, store: &HostStore, side: Side, slots: &[SlotId]) -> Result<HostTensor, CoreError> {
        store.check_slots(slots)?;
        let mut out = Vec::with_capacity(slots.len() * 2 * store.channels(side));
        for &slot in slots {
            let moments = store.moments(side, slot);
            out.extend_from_slice(moments.mean);
            out.extend_from_slice(moments.m2);
        }
        HostTensor::from_f32(&[slots.len(), 2, store.channels(side)], out)
    }
}
