//! A backend that does nothing.

mod tokens;

pub use tokens::{NullIndices, NullTables};

use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Readback, Rotation,
    RotationExtents, Shape, Side, SlotId, StoreSpec, Summaries, Traffic, checks,
};

/// A backend that does nothing: results have the shapes and dtypes that they should have, there is no arithmetic, and nothing is stored but
/// that. What a session costs on it is the session's own work.
///
/// Arguments are checked as far as that takes no longer the more is cached; numbers of rows and pages are not looked at. What is read back is
/// zeros, and chosen indices are equally far apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

/// A tensor of [`Null`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NullTensor {
    shape: Shape,
    dtype: DType,
    /// For words of numbers, how far a row's numbers are apart.
    apart: Option<usize>,
}

impl NullTensor {
    /// A tensor of this shape.
    pub fn new(shape: &[usize], dtype: DType) -> Self {
        Self { shape: shape.into(), dtype, apart: None }
    }

    fn read(&self) -> Result<HostTensor, CoreError> {
        let Some(apart) = self.apart else { return HostTensor::zeros(&self.shape, self.dtype) };
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        let words = |_| (0..columns).map(|column| f32::from_bits((column * apart) as u32));
        let rows = self.shape.iter().product::<usize>() / columns;
        HostTensor::from_f32(&self.shape, (0..rows).flat_map(words).collect())
    }
}

/// What [`Null`] reads: zeros and numbers, made when somebody waits for them.
#[derive(Clone, Debug)]
pub struct NullRead(Vec<NullTensor>);

impl Readback for NullRead {
    fn wait(self) -> Result<Vec<HostTensor>, CoreError> {
        self.0.iter().map(NullTensor::read).collect()
    }
}

fn head_dim(spec: &StoreSpec, side: Side) -> usize {
    match side {
        Side::Keys => spec.head_dim_k,
        Side::Values => spec.head_dim_v,
    }
}

impl Engine for Null {
    type Tensor = NullTensor;
    type Store = StoreSpec;
    type Rotation = RotationExtents;
    type Read = NullRead;

    fn name(&self) -> &'static str {
        "null"
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn describe<'t>(&self, tensor: &'t NullTensor) -> (&'t [usize], DType) {
        (&tensor.shape, tensor.dtype)
    }

    fn upload(&self, tensor: &HostTensor) -> Result<NullTensor, CoreError> {
        Ok(NullTensor::new(tensor.shape(), tensor.dtype()))
    }

    fn read(&self, tensors: &[&NullTensor]) -> Result<NullRead, CoreError> {
        Ok(NullRead(tensors.iter().map(|&tensor| tensor.clone()).collect()))
    }

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<RotationExtents, CoreError> {
        rotation.extents()
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<StoreSpec, CoreError> {
        Ok(*spec)
    }

    fn grow_store(&self, store: &mut StoreSpec, slots: usize) -> Result<(), CoreError> {
        store.slots = store.slots.max(slots);
        Ok(())
    }

    fn store_bytes(&self, store: &StoreSpec) -> u64 {
        let token = store.kv_heads * (store.head_dim_k + store.head_dim_v);
        let numbers = store.slots * store.tokens_per_unit * token * store.dtype.bytes();
        (numbers + store.slots * 2 * token * size_of::<f32>()) as u64
    }

    fn rotated_bytes(&self, _store: &StoreSpec) -> u64 {
        0
    }

    fn forget_rotated(&self, _store: &mut StoreSpec) {}

    fn write(
        &self,
        store: &mut StoreSpec,
        slots: &[SlotId],
        k: &NullTensor,
        v: &NullTensor,
        _summaries: Summaries,
    ) -> Result<(), CoreError> {
        checks::slots(store.slots, slots)?;
        let side = |what, tensor, side| {
            let &NullTensor { ref shape, dtype, .. } = tensor;
            (what, shape.as_slice(), dtype, head_dim(store, side))
        };
        checks::written(store, slots.len(), [side("k", k, Side::Keys), side("v", v, Side::Values)])
    }

    fn check_finite(&self, _what: &'static str, _tensor: &NullTensor) -> Result<(), CoreError> {
        Ok(())
    }

    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<NullTensor, CoreError> {
        let mut logits = 0;
        for &LogitQuery { store, q, candidates } in queries {
            let query = checks::query(store, &q.shape)?;
            checks::count("candidate lists", query.sequences, candidates.len())?;
            checks::slots(store.slots, candidates.iter().flatten())?;
            logits += candidates.iter().map(Vec::len).sum::<usize>();
        }
        Ok(NullTensor::new(&[logits], DType::F32))
    }

    fn align(&self, store: &mut StoreSpec, _tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        checks::slots(store.slots, jobs.iter().flat_map(|job| job.slots.iter().chain(&job.trusted)))
    }

    fn attend(
        &self,
        store: &mut StoreSpec,
        rotation: Option<&RotationExtents>,
        q: &NullTensor,
        tables: &[AttendTable<'_>],
        out: &mut NullTensor,
    ) -> Result<(), CoreError> {
        checks::attention(store, &q.shape, tables, rotation, (&out.shape, out.dtype)).map(drop)
    }

    fn gather(
        &self,
        store: &StoreSpec,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&RotationExtents, &[u32])>,
    ) -> Result<NullTensor, CoreError> {
        checks::slots(store.slots, slots)?;
        if let Some((rotation, positions)) = rotation {
            checks::count("positions", slots.len(), positions.len())?;
            checks::rotation(store, store.kv_heads, rotation, positions.iter().map(|&p| p as usize))?;
        }
        let shape = [slots.len() * store.tokens_per_unit, store.kv_heads, head_dim(store, side)];
        Ok(NullTensor::new(&shape, store.dtype))
    }

    fn moments(&self, store: &StoreSpec, side: Side, slots: &[SlotId]) -> Result<NullTensor, CoreError> {
        checks::slots(store.slots, slots)?;
        Ok(NullTensor::new(&[slots.len(), 2, store.kv_heads * head_dim(store, side)], DType::F32))
    }
}
