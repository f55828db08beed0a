//! One layer's keys, values and moments in host memory.

use half::{bf16, f16};

use crate::engine::{Side, StoreSpec};
use crate::tensor::element_count;
use crate::{CoreError, DType, MomentsView, SlotId, TensorData};

/// K and V `[slots, tokens_per_unit, kv_heads, head_dim]` and their moments `[slots, 2, kv_heads * head_dim]`.
#[derive(Debug)]
pub struct HostStore {
    pub(super) spec: StoreSpec,
    keys: SideStore,
    values: SideStore,
}

#[derive(Debug)]
struct SideStore {
    channels: usize,
    data: TensorData,
    moments: Vec<f32>,
}

impl SideStore {
    fn new(spec: &StoreSpec, head_dim: usize) -> Result<Self, CoreError> {
        let channels = element_count(&[spec.kv_heads, head_dim])?;
        element_count(&[spec.slots, spec.tokens_per_unit, channels, spec.dtype.bytes()])?;
        Ok(Self {
            channels,
            data: TensorData::zeros(spec.dtype, spec.slots * spec.tokens_per_unit * channels),
            moments: vec![0.0; spec.slots * 2 * channels],
        })
    }
}

impl HostStore {
    pub(super) fn new(spec: &StoreSpec) -> Result<Self, CoreError> {
        Ok(Self {
            spec: *spec,
            keys: SideStore::new(spec, spec.head_dim_k)?,
            values: SideStore::new(spec, spec.head_dim_v)?,
        })
    }

    /// Returns the bytes that had to be copied.
    pub(super) fn grow(&mut self, slots: usize) -> Result<u64, CoreError> {
        let spec = StoreSpec { slots, ..self.spec };
        let mut copied = 0;
        for (half, head_dim) in [(&mut self.keys, spec.head_dim_k), (&mut self.values, spec.head_dim_v)] {
            let len = element_count(&[slots, spec.tokens_per_unit, spec.kv_heads, head_dim])?;
            element_count(&[len, spec.dtype.bytes()])?;
            copied += half.data.as_bytes().len() as u64;
            match &mut half.data {
                TensorData::F32(v) => v.resize(len, 0.0),
                TensorData::F16(v) => v.resize(len, f16::ZERO),
                TensorData::BF16(v) => v.resize(len, bf16::ZERO),
            }
            half.moments.resize(slots * 2 * half.channels, 0.0);
        }
        self.spec = spec;
        Ok(copied)
    }

    pub(super) fn bytes(&self) -> u64 {
        [&self.keys, &self.values]
            .map(|h| (h.data.as_bytes().len() + size_of_val(h.moments.as_slice())) as u64)
            .iter()
            .sum()
    }

    fn half(&self, side: Side) -> &SideStore {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    fn half_mut(&mut self, side: Side) -> &mut SideStore {
        match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        }
    }

    /// `kv_heads * head_dim` of a side.
    pub(super) fn channels(&self, side: Side) -> usize {
        self.half(side).channels
    }

    pub(super) fn data(&self, side: Side) -> &TensorData {
        &self.half(side).data
    }

    pub(super) fn into_data(self, side: Side) -> TensorData {
        match side {
            Side::Keys => self.keys.data,
            Side::Values => self.values.data,
        }
    }

    /// Elements of one slot.
    fn unit_len(&self, side: Side) -> usize {
        self.spec.tokens_per_unit * self.channels(side)
    }

    /// Copies unit number `unit` of `source` (same dtype, checked by the caller) to `slot`.
    pub(super) fn write_unit(&mut self, side: Side, slot: SlotId, source: &TensorData, unit: usize) {
        let len = self.unit_len(side);
        let (to, from) = (slot.index() * len, unit * len);
        match (&mut self.half_mut(side).data, source) {
            (TensorData::F32(d), TensorData::F32(s)) => d[to..to + len].copy_from_slice(&s[from..from + len]),
            (TensorData::F16(d), TensorData::F16(s)) => d[to..to + len].copy_from_slice(&s[from..from + len]),
            (TensorData::BF16(d), TensorData::BF16(s)) => {
                d[to..to + len].copy_from_slice(&s[from..from + len]);
            }
            _ => unreachable!("dtypes are compared before a write"),
        }
    }

    /// The tokens of a slot, widened.
    pub(super) fn unit_f32(&self, side: Side, slot: SlotId, into: &mut Vec<f32>) {
        let len = self.unit_len(side);
        let range = slot.index() * len..(slot.index() + 1) * len;
        into.clear();
        match &self.half(side).data {
            TensorData::F32(v) => into.extend_from_slice(&v[range]),
            TensorData::F16(v) => into.extend(v[range].iter().map(|x| x.to_f32())),
            TensorData::BF16(v) => into.extend(v[range].iter().map(|x| x.to_f32())),
        }
    }

    /// Replaces the tokens of a slot, rounded to the storage type.
    pub(super) fn set_unit_f32(&mut self, side: Side, slot: SlotId, tokens: &[f32]) {
        let len = self.unit_len(side);
        let range = slot.index() * len..(slot.index() + 1) * len;
        match &mut self.half_mut(side).data {
            TensorData::F32(v) => v[range].copy_from_slice(tokens),
            TensorData::F16(v) => v[range].iter_mut().zip(tokens).for_each(|(d, &x)| *d = f16::from_f32(x)),
            TensorData::BF16(v) => v[range].iter_mut().zip(tokens).for_each(|(d, &x)| *d = bf16::from_f32(x)),
        }
    }

    /// Widens one head of one token into `into`.
    #[inline]
    pub(super) fn load_head(&self, side: Side, slot: SlotId, token: usize, head: usize, into: &mut [f32]) {
        let dim = into.len();
        let start = slot.index() * self.unit_len(side) + token * self.channels(side) + head * dim;
        let range = start..start + dim;
        match &self.half(side).data {
            TensorData::F32(v) => into.copy_from_slice(&v[range]),
            TensorData::F16(v) => into.iter_mut().zip(&v[range]).for_each(|(d, x)| *d = x.to_f32()),
            TensorData::BF16(v) => into.iter_mut().zip(&v[range]).for_each(|(d, x)| *d = x.to_f32()),
        }
    }

    pub(super) fn moments(&self, side: Side, slot: SlotId) -> MomentsView<'_> {
        let channels = self.channels(side);
        let (mean, m2) =
            self.half(side).moments[slot.index() * 2 * channels..][..2 * channels].split_at(channels);
        MomentsView { count: self.spec.tokens_per_unit as u64, mean, m2 }
    }

    pub(super) fn moments_mut(&mut self, side: Side, slot: SlotId) -> (&mut [f32], &mut [f32]) {
        let channels = self.channels(side);
        self.half_mut(side).moments[slot.index() * 2 * channels..][..2 * channels].split_at_mut(channels)
    }

    pub(super) fn check_slots(&self, slots: &[SlotId]) -> Result<(), CoreError> {
        match slots.iter().find(|s| s.index() >= self.spec.slots) {
            Some(&slot) => Err(CoreError::NoSuchSlot { slot, slots: self.spec.slots }),
            None => Ok(()),
        }
    }

    pub(super) fn head_dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.spec.head_dim_k,
            Side::Values => self.spec.head_dim_v,
        }
    }

    pub(super) fn check_dtype(&self, what: &'static str, got: DType) -> Result<(), CoreError> {
        if got == self.spec.dtype {
            Ok(())
        } else {
            Err(CoreError::DTypeMismatch { what, expected: self.spec.dtype, got })
        }
    }
}
