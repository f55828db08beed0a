//! Statistics alignment on the host: everything is worked out and checked before the first byte changes.

use crate::store::HostStore;
use tether_core::{AlignJob, ChannelAlignment, CoreError, Moments, Side, SlotId, TensorData};

/// A unit as it will be.
pub(super) struct EditedUnit {
    side: Side,
    slot: SlotId,
    tokens: TensorData,
    mean: Vec<f32>,
    m2: Vec<f32>,
}

/// The units that `jobs` change, edited. Fails when an edited number does not fit the storage type.
pub(super) fn edited_units(
    store: &HostStore,
    tau: f32,
    jobs: &[AlignJob],
) -> Result<Vec<EditedUnit>, CoreError> {
    let mut edited = Vec::new();
    for side in [Side::Keys, Side::Values] {
        let pool = |slots: &[SlotId]| Moments::merge(slots.iter().map(|&s| store.moments(side, s)));
        // Jobs of one sequence share their trusted slots.
        let mut target: Option<(&[SlotId], Moments)> = None;
        for job in jobs.iter().filter(|j| !j.trusted.is_empty() && !j.slots.is_empty()) {
            let known = target.take().filter(|(slots, _)| *slots == job.trusted);
            let (_, trusted) = target.insert(match known {
                Some(known) => known,
                None => (&job.trusted, pool(&job.trusted)?),
            });
            let own = pool(&job.slots)?;
            let (own, trusted) = (own.view(), trusted.view());
            let alignments: Vec<ChannelAlignment> = (0..own.mean.len())
                .map(|c| ChannelAlignment::new(tau, own.spread(c), trusted.spread(c)))
                .collect();
            for &slot in &job.slots {
                edited.push(edited_unit(store, side, slot, &alignments)?);
            }
        }
    }
    Ok(edited)
}

fn edited_unit(
    store: &HostStore,
    side: Side,
    slot: SlotId,
    alignments: &[ChannelAlignment],
) -> Result<EditedUnit, CoreError> {
    let mut tokens = Vec::new();
    store.unit_f32(side, slot, &mut tokens);
    for token in tokens.chunks_exact_mut(alignments.len()) {
        token.iter_mut().zip(alignments).for_each(|(x, a)| *x = a.apply(*x));
    }
    let before = store.moments(side, slot);
    let after = before.mean.iter().zip(before.m2).zip(alignments);
    let (mean, m2) = after.map(|((&mean, &m2), a)| a.moments_after(mean, m2)).unzip();
    let unit = EditedUnit { side, slot, tokens: TensorData::narrowed(store.spec.dtype, &tokens), mean, m2 };
    let what = match side {
        Side::Keys => "aligned k",
        Side::Values => "aligned v",
    };
    match unit.tokens.first_non_finite().or_else(|| unit.m2.iter().position(|x| !x.is_finite())) {
        Some(index) => Err(CoreError::NonFinite { what, index }),
        None => Ok(unit),
    }
}

impl EditedUnit {
    /// Writes the unit and returns the bytes written.
    pub(super) fn apply(self, store: &mut HostStore) -> usize {
        store.write_unit(self.side, self.slot, &self.tokens, 0);
        let (mean, m2) = store.moments_mut(self.side, self.slot);
        mean.copy_from_slice(&self.mean);
        m2.copy_from_slice(&self.m2);
        self.tokens.as_bytes().len()
    }
}
