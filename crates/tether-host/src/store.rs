//! One layer's keys, values and moments in host memory.

use tether_core::checks::element_count;
use tether_core::{
    CoreError, DType, ElementsMut, HostTensor, MomentsView, Side, SlotId, StoreSpec, TensorData,
};

use crate::rotated::RotatedKeys;

/// Copies `len` elements between tensors of one dtype.
pub(super) fn copy_elements(
    target: ElementsMut<'_>,
    to: usize,
    source: &TensorData,
    from: usize,
    len: usize,
) {
    match (target, source) {
        (ElementsMut::F32(t), TensorData::F32(s)) => t[to..to + len].copy_from_slice(&s[from..from + len]),
        (ElementsMut::F16(t), TensorData::F16(s)) => t[to..to + len].copy_from_slice(&s[from..from + len]),
        (ElementsMut::BF16(t), TensorData::BF16(s)) => t[to..to + len].copy_from_slice(&s[from..from + len]),
        _ => unreachable!("dtypes are compared before a copy"),
    }
}

/// K and V `[slots, tokens_per_unit, kv_heads, head_dim]` and their moments `[slots, 2, kv_heads * head_dim]`.
#[derive(Debug)]
pub struct HostStore {
    pub(super) spec: StoreSpec,
    keys: SideStore,
    values: SideStore,
    pub(super) rotated: Option<RotatedKeys>,
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
        let len = element_count(&[spec.slots, spec.tokens_per_unit, channels])?;
        let moments = HostTensor::zeros(&[spec.slots, 2, channels], DType::F32)?.into_f32_vec();
        Ok(Self { channels, data: TensorData::zeros(spec.dtype, len)?, moments })
    }
}

impl HostStore {
    pub(super) fn new(spec: &StoreSpec) -> Result<Self, CoreError> {
        Ok(Self {
            spec: *spec,
            keys: SideStore::new(spec, spec.head_dim_k)?,
            values: SideStore::new(spec, spec.head_dim_v)?,
            rotated: None,
        })
    }

    /// Returns the bytes that had to be copied.
    pub(super) fn grow(&mut self, slots: usize) -> Result<u64, CoreError> {
        let mut grown = Self::new(&StoreSpec { slots, ..self.spec })?;
        let mut copied = 0;
        for (to, from) in [(&mut grown.keys, &self.keys), (&mut grown.values, &self.values)] {
            copy_elements(to.data.elements_mut(), 0, &from.data, 0, from.data.len());
            to.moments[..from.moments.len()].copy_from_slice(&from.moments);
            copied += from.data.as_bytes().len() as u64;
        }
        grown.rotated = self.rotated.take();
        *self = grown;
        Ok(copied)
    }

    pub(super) fn bytes(&self) -> u64 {
        [&self.keys, &self.values]
            .map(|h| (h.data.as_bytes().len() + size_of_val(h.moments.as_slice())) as u64)
            .iter()
            .sum()
    }

    fn side(&self, side: Side) -> &SideStore {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut SideStore {
        match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        }
    }

    /// `kv_heads * head_dim` of a side.
    pub(super) fn channels(&self, side: Side) -> usize {
        self.side(side).channels
    }

    pub(super) fn data(&self, side: Side) -> &TensorData {
        &self.side(side).data
    }

    /// Elements of one slot.
    fn unit_len(&self, side: Side) -> usize {
        self.spec.tokens_per_unit * self.channels(side)
    }

    /// Copies unit number `unit` of `source` (same dtype, checked by the caller) to `slot`.
    pub(super) fn write_unit(&mut self, side: Side, slot: SlotId, source: &TensorData, unit: usize) {
        let len = self.unit_len(side);
        copy_elements(self.side_mut(side).data.elements_mut(), slot.index() * len, source, unit * len, len);
        if let Some(rotated) = self.rotated.as_mut().filter(|_| side == Side::Keys) {
            rotated.written(slot);
        }
    }

    /// Copies `slot` out to place `unit` of `target`.
    pub(super) fn read_unit(&self, side: Side, slot: SlotId, target: &mut TensorData, unit: usize) {
        let len = self.unit_len(side);
        copy_elements(target.elements_mut(), unit * len, self.data(side), slot.index() * len, len);
    }

    /// The tokens of a slot, widened.
    pub(super) fn unit_f32(&self, side: Side, slot: SlotId, into: &mut Vec<f32>) {
        let len = self.unit_len(side);
        let range = slot.index() * len..(slot.index() + 1) * len;
        into.clear();
        into.extend_from_slice(&self.data(side).widened(range));
    }

    /// Widens one head of one token into `into`.
    #[inline]
    pub(super) fn load_head(&self, side: Side, slot: SlotId, token: usize, head: usize, into: &mut [f32]) {
        let dim = into.len();
        let start = slot.index() * self.unit_len(side) + token * self.channels(side) + head * dim;
        self.data(side).widen_into(start, into);
    }

    pub(super) fn moments(&self, side: Side, slot: SlotId) -> MomentsView<'_> {
        let channels = self.channels(side);
        let (mean, m2) =
            self.side(side).moments[slot.index() * 2 * channels..][..2 * channels].split_at(channels);
        MomentsView { count: self.spec.tokens_per_unit as u64, mean, m2 }
    }

    pub(super) fn moments_mut(&mut self, side: Side, slot: SlotId) -> (&mut [f32], &mut [f32]) {
        let channels = self.channels(side);
        self.side_mut(side).moments[slot.index() * 2 * channels..][..2 * channels].split_at_mut(channels)
    }

    pub(super) fn head_dim(&self, side: Side) -> usize {
        match side {
            Side::Keys => self.spec.head_dim_k,
            Side::Values => self.spec.head_dim_v,
        }
    }
}
