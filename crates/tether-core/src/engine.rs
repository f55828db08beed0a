//! The `Engine` trait: one method per device operation.

use std::fmt::Debug;

use crate::{AlignJob, CoreError, DType, HostTensor, Rotation, RotationExtents, SlotId, Traffic};

/// Size and type of one layer's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Slots to begin with.
    pub slots: usize,
    /// Tokens of a slot.
    pub tokens_per_unit: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a key head.
    pub head_dim_k: usize,
    /// Channels of a value head.
    pub head_dim_v: usize,
    /// Storage type.
    pub dtype: DType,
}

impl StoreSpec {
    /// Heads of a token, and channels of each, as a rotation sees them: as they are, or one that is all of them where the rotation spans more than a
    /// head.
    pub fn rotated_heads(&self, rotation: &RotationExtents) -> (usize, usize) {
        if rotation.rotary_dim <= self.head_dim_k {
            (self.kv_heads, self.head_dim_k)
        } else {
            (1, self.kv_heads * self.head_dim_k)
        }
    }
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Whether a write leaves moments behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summaries {
    /// K and V only: a noisy pass that will be overwritten.
    Skip,
    /// K, V and their moments, in one pass over the data.
    Moments,
}

/// What one sequence attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttendTable<'a> {
    /// Slots in logical order.
    pub slots: &'a [SlotId],
    /// Position of each slot's unit.
    pub positions: &'a [u32],
    /// Position of the first query unit; the following ones count up.
    pub query_position: u32,
}

/// One store's question to [`Engine::mean_logits_of`].
#[derive(Debug)]
pub struct LogitQuery<'a, E: Engine> {
    /// Where the candidates lie.
    pub store: &'a E::Store,
    /// Queries, un-rotated: `[tokens, query_heads, head_dim_k]`, with a leading axis for several sequences.
    pub q: &'a E::Tensor,
    /// Candidates of each sequence.
    pub candidates: &'a [Vec<SlotId>],
}

/// Device results on their way to the host.
pub trait Readback: Debug {
    /// Waits for the results.
    ///
    /// # Errors
    /// [`CoreError::Device`] when anything queued before failed.
    fn wait(self) -> Result<Vec<HostTensor>, CoreError>;
}

/// A device that stores keys and values and works on them.
///
/// Every method checks its arguments, queues its work and returns; nothing waits for the device but [`Readback::wait`]. A method
/// that returns an error has queued nothing. Lists of slots are per sequence where a method takes several; tensors are the
/// engine's own and keep their shape: `[tokens, heads, head_dim]`, with a leading axis for several sequences.
pub trait Engine: Debug + Sized {
    /// A tensor on the device. A clone on a GPU is another handle of the same memory.
    type Tensor: Debug + Clone;
    /// One layer's K, V and moments.
    type Store: Debug;
    /// An uploaded [`Rotation`].
    type Rotation: Debug;
    /// See [`Engine::read`].
    type Read: Readback;

    /// Name for messages and reports.
    fn name(&self) -> &'static str;

    /// Whether stores hold codes: what is read is near what was written, and not equal to it.
    fn stores_codes(&self) -> bool {
        false
    }

    /// Bytes moved so far.
    fn traffic(&self) -> Traffic;

    /// Shape and dtype of a tensor.
    fn describe<'t>(&self, tensor: &'t Self::Tensor) -> (&'t [usize], DType);

    /// Copies a host tensor to the device.
    ///
    /// # Errors
    /// [`CoreError::Device`] when there is no room, [`CoreError::Unsupported`] for a dtype the device lacks.
    fn upload(&self, tensor: &HostTensor) -> Result<Self::Tensor, CoreError>;

    /// Starts copying `tensors` to the host: the only way back, so that one wait can serve many layers.
    ///
    /// # Errors
    /// [`CoreError::Device`] when the copies cannot be queued.
    fn read(&self, tensors: &[&Self::Tensor]) -> Result<Self::Read, CoreError>;

    /// Copies a rotation to the device.
    ///
    /// # Errors
    /// Those of [`Rotation::extents`], [`CoreError::Device`].
    fn upload_rotation(&self, rotation: &Rotation<'_>) -> Result<Self::Rotation, CoreError>;

    /// A store of zeros, with moments of zeros.
    ///
    /// # Errors
    /// [`CoreError::SizeOverflow`] and [`CoreError::Device`] when it does not fit.
    fn create_store(&self, spec: &StoreSpec) -> Result<Self::Store, CoreError>;

    /// Enlarges `store` to `slots` slots; the new ones are zero.
    ///
    /// # Errors
    /// As [`Engine::create_store`].
    fn grow_store(&self, store: &mut Self::Store, slots: usize) -> Result<(), CoreError>;

    /// Bytes that `store` occupies, moments included.
    fn store_bytes(&self, store: &Self::Store) -> u64;

    /// Bytes of the keys that [`Engine::attend`] keeps rotated.
    fn rotated_bytes(&self, store: &Self::Store) -> u64;

    /// Gives back what [`Engine::attend`] keeps rotated: the next one rotates all that it attends to.
    fn forget_rotated(&self, store: &mut Self::Store);

    /// Writes `k` and `v`, one unit after the other (sequence-major), to `slots`.
    ///
    /// # Errors
    /// [`CoreError::NoSuchSlot`]; [`CoreError::ShapeMismatch`] and [`CoreError::DTypeMismatch`] against the store;
    /// [`CoreError::NonFinite`] from engines that can see it without waiting.
    fn write(
        &self,
        store: &mut Self::Store,
        slots: &[SlotId],
        k: &Self::Tensor,
        v: &Self::Tensor,
        summaries: Summaries,
    ) -> Result<(), CoreError>;

    /// Looks for what makes `tensor` unfit to be stored, NaN and infinities, as far as that needs no waiting; a device may leave it
    /// at `Ok` and let scores come back as NaN.
    ///
    /// # Errors
    /// [`CoreError::NonFinite`].
    fn check_finite(&self, what: &'static str, tensor: &Self::Tensor) -> Result<(), CoreError>;

    /// Mean attention logit of each candidate unit, per sequence: the mean over query heads, query tokens and the unit's tokens of
    /// `q.k / sqrt(head_dim_k)`, from the mean query and the stored mean keys. Un-rotated. The result is `f32`, the candidates of all
    /// queries and of all their sequences in one row, so that one read serves many layers.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::NoSuchSlot`], [`CoreError::Count`].
    fn mean_logits_of(&self, queries: &[LogitQuery<'_, Self>]) -> Result<Self::Tensor, CoreError>;

    /// [`Engine::mean_logits_of`] one store.
    ///
    /// # Errors
    /// As [`Engine::mean_logits_of`].
    fn mean_logits(
        &self,
        store: &Self::Store,
        q: &Self::Tensor,
        candidates: &[Vec<SlotId>],
    ) -> Result<Self::Tensor, CoreError> {
        self.mean_logits_of(&[LogitQuery { store, q, candidates }])
    }

    /// Aligns the statistics of `jobs` in place, K and V, and updates the moments analytically. All targets are taken before the
    /// first edit: a job sees the slots that it trusts, and its own, as they were before the call. A job without trusted slots changes
    /// nothing; of several edits of one slot the last one stands.
    ///
    /// # Errors
    /// [`CoreError::NoSuchSlot`]; [`CoreError::NonFinite`] from engines that can see, before anything is written, that an edited number
    /// does not fit the storage type.
    fn align(&self, store: &mut Self::Store, tau: f32, jobs: &[AlignJob]) -> Result<(), CoreError>;

    /// Full softmax attention of `q` (un-rotated) over each sequence's table, queries and keys rotated on the way when there is a
    /// `rotation`, values as stored; scale `1 / sqrt(head_dim_k)`, no mask. `out` is `f32`. Entry `p * tokens_per_unit + t` of the rotation is that of
    /// token `t` of a unit at position `p`.
    ///
    /// Rotated keys stay beside the store: the next call rotates what was written or edited since, or stands at another place or position. An engine
    /// whose stores hold codes keeps none.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::NoSuchSlot`], [`CoreError::Count`], [`CoreError::PositionOutOfTable`].
    fn attend(
        &self,
        store: &mut Self::Store,
        rotation: Option<&Self::Rotation>,
        q: &Self::Tensor,
        tables: &[AttendTable<'_>],
        out: &mut Self::Tensor,
    ) -> Result<(), CoreError>;

    /// Copies slots out to one tensor `[slots * tokens_per_unit, kv_heads, head_dim]` of the store's dtype, keys rotated to the
    /// positions when there is a rotation, as in [`Engine::attend`].
    ///
    /// # Errors
    /// [`CoreError::NoSuchSlot`], [`CoreError::Count`], [`CoreError::PositionOutOfTable`].
    fn gather(
        &self,
        store: &Self::Store,
        side: Side,
        slots: &[SlotId],
        rotation: Option<(&Self::Rotation, &[u32])>,
    ) -> Result<Self::Tensor, CoreError>;

    /// Copies moments out: `f32` `[slots, 2, kv_heads * head_dim]`, mean then sum of squared deviations.
    ///
    /// # Errors
    /// [`CoreError::NoSuchSlot`].
    fn moments(&self, store: &Self::Store, side: Side, slots: &[SlotId]) -> Result<Self::Tensor, CoreError>;
}
