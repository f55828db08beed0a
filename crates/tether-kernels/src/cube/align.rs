//! Statistics alignment on the device.

use cubecl::prelude::*;
use tether_core::{AlignJob, ChannelAlignment, Side, SlotId, Traffic};

use super::launch::{Inline, array, vector_size, with_storage, words};
use super::units::per_unit;
use super::{Cube, CubeStore};
use crate::kernels::{align, column};

/// Tokens of a cube: enough that reading the statistics costs little beside them; fewer, down to half, where there are too few cubes.
const TOKENS: usize = 390;
/// Cubes that a large device runs at once.
const CUBES: usize = 384;

/// The jobs as the kernel reads them, and the slots that change.
struct JobWords {
    words: Vec<u32>,
    edited: Vec<SlotId>,
}

impl JobWords {
    fn of(store: &CubeStore, jobs: &[AlignJob]) -> Self {
        let jobs: Vec<&AlignJob> =
            jobs.iter().filter(|j| !j.slots.is_empty() && !j.trusted.is_empty()).collect();
        let pairs = jobs.iter().enumerate().flat_map(|(i, job)| job.slots.iter().map(move |&slot| (i, slot)));
        // All edits start from what was there before, so of several edits of a slot the last one stands.
        let mut edits: Vec<(usize, SlotId)> = Vec::new();
        for (job, slot) in pairs {
            match edits.iter_mut().find(|(_, known)| *known == slot) {
                Some(edit) => edit.0 = job,
                None => edits.push((job, slot)),
            }
        }
        let (jobs_at, lists_at) = (2 * edits.len(), 2 * edits.len() + 4 * jobs.len());
        let mut words: Vec<u32> =
            edits.iter().flat_map(|&(job, slot)| [(jobs_at + 4 * job) as u32, store.row(slot)]).collect();
        let mut lists: Vec<u32> = Vec::new();
        // Jobs of one sequence share their trusted slots.
        let mut last: Option<(&[SlotId], [u32; 2])> = None;
        for job in &jobs {
            let mut list = |slots: &[SlotId]| {
                let begin = lists_at + lists.len();
                lists.extend(slots.iter().map(|&slot| store.row(slot)));
                [begin as u32, (lists_at + lists.len()) as u32]
            };
            words.extend(list(&job.slots));
            let known = last.filter(|(slots, _)| *slots == job.trusted).map(|(_, range)| range);
            let range = known.unwrap_or_else(|| list(&job.trusted));
            last = Some((&job.trusted, range));
            words.extend(range);
        }
        words.extend(lists);
        Self { words, edited: edits.into_iter().map(|(_, slot)| slot).collect() }
    }
}

impl<R: Runtime> Cube<R> {
    /// Edits by jobs whose slots are checked.
    pub(super) fn align_units(&self, store: &mut CubeStore, tau: f32, jobs: &[AlignJob]) {
        let JobWords { words: table, edited } = JobWords::of(store, jobs);
        if edited.is_empty() {
            return;
        }
        let spec = store.spec;
        let (channels_k, channels_v) = (store.keys.channels, store.values.channels);
        let size = vector_size(&self.client, spec.dtype.bytes(), &[channels_k, channels_v]);
        let columns = column::WIDE / (size * spec.dtype.bytes());
        let (width_k, width_v) = (channels_k / size, channels_v / size);
        let (blocks_k, blocks_v) = (width_k.div_ceil(columns), width_v.div_ceil(columns));
        let parts = CUBES / ((blocks_k + blocks_v) * edited.len());
        let parts =
            parts.clamp(spec.tokens_per_unit.div_ceil(TOKENS), spec.tokens_per_unit.div_ceil(TOKENS / 2));
        let data = |side| array(&store.side(side).data, store.data_len(side));
        let count = per_unit((blocks_k + blocks_v) * parts, edited.len());
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `edited` units of `tokens_per_unit` tokens of `width_k` and `width_v` vectors; their slots, and the rows that
        // `table` names, exist; its ranges lie within it.
        unsafe {
            with_storage!(spec.dtype, F => align::align_units::launch_unchecked::<F, R>(
                &self.client, count, CubeDim::new_1d(align::THREADS), size, data(Side::Keys), data(Side::Values),
                array(&store.moments, store.moments_len()), words(&self.client, &table, Inline::Staged), edited.len() as u32,
                spec.tokens_per_unit as u32, width_k as u32, width_v as u32, blocks_k as u32, parts as u32, tau,
                ChannelAlignment::SD_FLOOR, columns as u32,
            ));
        }
        for slot in &edited {
            store.rows[slot.index()] ^= 1;
        }
        store.written(&edited);
        let bytes =
            edited.len() * (store.unit_len(Side::Keys) + store.unit_len(Side::Values)) * spec.dtype.bytes();
        self.traffic.add(Traffic { edited: bytes as u64, ..Traffic::default() });
    }
}
