//! A backend that fails when it is told to, and counts what it moves.

mod codes;
mod tokens;

use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, LogitQuery, Readback, Rotation, Side,
    SlotId, StoreSpec, Summaries, Traffic,
};

use super::watch::Bytes;
use super::{Call, Watch};

/// A backend that passes everything on to another one, counts calls and bytes by kind, and makes the call that its [`Watch`] names return
/// [`CoreError::Device`] before it does anything: whatever is wrong afterwards, the session above it has done.
///
/// ```
/// use tether_core::{CoreError, DType, Engine, HostTensor};
/// use tether_host::Host;
/// use tether_testing::backends::{Call, Faulty};
///
/// let engine = Faulty::new(Host::new());
/// let watch = engine.watch().clone();
/// let x = HostTensor::zeros(&[2, 3], DType::F32)?;
/// watch.fail_after(1);
/// let x = engine.upload(&x)?;
/// assert!(matches!(engine.read(&[&x]), Err(CoreError::Device { .. })));
/// assert_eq!(watch.failed(), Some(Call::Read));
/// // It fails once; a caller may try again.
/// engine.read(&[&x])?;
/// assert_eq!(watch.moved_by(Call::Upload).to_device, 24);
/// assert_eq!((watch.moved().to_host, watch.waits()), (24, 0));
/// # Ok::<(), CoreError>(())
/// ```
#[derive(Debug)]
pub struct Faulty<E> {
    engine: E,
    watch: Watch,
}

impl<E> Faulty<E> {
    /// Passes on to `engine`, and lets everything through for now.
    pub fn new(engine: E) -> Self {
        Self::watched(engine, Watch::new())
    }

    /// Under a handle that others may share.
    pub fn watched(engine: E, watch: Watch) -> Self {
        Self { engine, watch }
    }

    /// The handle.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The backend behind it, which neither counts nor fails.
    pub fn inner(&self) -> &E {
        &self.engine
    }
}

impl<E: Engine> Faulty<E> {
    fn enter(&self, call: Call, bytes: Bytes) -> Result<(), CoreError> {
        self.watch.enter(self.engine.name(), call, bytes)
    }
}

/// Bytes of a list that travels with a call.
pub(super) fn list<T>(list: &[T]) -> u64 {
    size_of_val(list) as u64
}

/// Results of a watched backend on their way to the host.
#[derive(Debug)]
pub struct WatchedRead<R> {
    read: R,
    engine: &'static str,
    watch: Watch,
}

impl<R: Readback> Readback for WatchedRead<R> {
    fn wait(self) -> Result<Vec<HostTensor>, CoreError> {
        self.watch.enter(self.engine, Call::Wait, Bytes::None)?;
        self.read.wait()
    }
}

impl<E: Engine> Engine for Faulty<E> {
    type Tensor = E::Tensor;
    type Store = E::Store;
    type Rotation = E::Rotation;
    type Read = WatchedRead<E::Read>;

    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn stores_codes(&self) -> bool {
        self.engine.stores_codes()
    }

    fn traffic(&self) -> Traffic {
        self.engine.traffic()
    }

    fn describe<'t>(&self, tensor: &'t E::Tensor) -> (&'t [usize], DType) {
        self.engine.describe(tensor)
    }

    fn upload(&self, tensor: &HostTensor) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Upload, Bytes::ToDevice(list(tensor.data().as_bytes())))?;
        self.engine.upload(tensor)
    }

    fn read(&self, tensors: &[&E::Tensor]) -> Result<Self::Read, CoreError> {
        let bytes = tensors.iter().map(|tensor| {
            let (shape, dtype) = self.engine.describe(tensor);
            (shape.iter().product::<usize>() * dtype.bytes()) as u64
        });
        self.enter(Call::Read, Bytes::ToHost(bytes.sum()))?;
        let read = self.engine.read(tensors)?;
        Ok(WatchedRead { read, engine: self.engine.name(), watch: self.watch.clone() })
    }

    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<E::Rotation, CoreError> {
        let deltas: u64 = rotation.deltas.iter().map(|axis| list(axis)).sum();
        let bytes = list(rotation.frequencies) + list(rotation.axes) + deltas;
        self.enter(Call::UploadRotation, Bytes::ToDevice(bytes))?;
        self.engine.upload_rotation(rotation)
    }

    fn create_store(&self, spec: &StoreSpec) -> Result<E::Store, CoreError> {
        self.enter(Call::CreateStore, Bytes::None)?;
        self.engine.create_store(spec)
    }

    fn grow_store(&self, store: &mut E::Store, slots: usize) -> Result<(), CoreError> {
        self.enter(Call::GrowStore, Bytes::None)?;
        self.engine.grow_store(store, slots)
    }

    fn store_bytes(&self, store: &E::Store) -> u64 {
        self.engine.store_bytes(store)
    }

    fn rotated_bytes(&self, store: &E::Store) -> u64 {
        self.engine.rotated_bytes(store)
    }

    fn forget_rotated(&self, store: &mut E::Store) {
        self.engine.forget_rotated(store);
    }

    fn write(
        &self,
        store: &mut E::Store,
        slots: &[SlotId],
        k: &E::Tensor,
        v: &E::Tensor,
        summaries: Summaries,
    ) -> Result<(), CoreError> {
        self.enter(Call::Write, Bytes::ToDevice(list(slots)))?;
        self.engine.write(store, slots, k, v, summaries)
    }

    fn check_finite(&self, what: &'static str, tensor: &E::Tensor) -> Result<(), CoreError> {
        self.enter(Call::CheckFinite, Bytes::None)?;
        self.engine.check_finite(what, tensor)
    }

    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<E::Tensor, CoreError> {
        let bytes = queries.iter().flat_map(|query| query.candidates).map(|slots| list(slots)).sum();
        self.enter(Call::MeanLogits, Bytes::ToDevice(bytes))?;
        let queries: Vec<LogitQuery<'_, E>> = queries
            .iter()
            .map(|&LogitQuery { store, q, candidates }| LogitQuery { store, q, candidates })
            .collect();
        self.engine.mean_logits_of(&queries)
    }

    fn align(&self, store: &mut E::Store, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError> {
        let bytes = jobs.iter().map(|job| list(&job.slots) + list(&job.trusted)).sum();
        self.enter(Call::Align, Bytes::ToDevice(bytes))?;
        self.engine.align(store, tau, jobs)
    }

    fn attend(
        &self,
        store: &mut E::Store,
        rotation: Option<&E::Rotation>,
        q: &E::Tensor,
        tables: &[AttendTable<'_>],
        out: &mut E::Tensor,
    ) -> Result<(), CoreError> {
        let bytes = tables.iter().map(|table| list(table.slots) + list(table.positions)).sum();
        self.enter(Call::Attend, Bytes::ToDevice(bytes))?;
        self.engine.attend(store, rotation, q, tables, out)
    }

    fn gather(
        &self,
        store: &E::Store,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&E::Rotation, &[u32])>,
    ) -> Result<E::Tensor, CoreError> {
        let positions = rotation.map_or(0, |(_, positions)| list(positions));
        self.enter(Call::Gather, Bytes::ToDevice(list(slots) + positions))?;
        self.engine.gather(store, side, slots, rotation)
    }

    fn moments(&self, store: &E::Store, side: Side, slots: &[SlotId]) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Moments, Bytes::ToDevice(list(slots)))?;
        self.engine.moments(store, side, slots)
    }
}
