//! What checkers say of sources.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::manifest::{Entry, sources};

/// One source under one checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The place in the manifest of the first entry that names it.
    pub(crate) entry: usize,
    /// The checker, or the device that it compiled for.
    pub(crate) by: &'static str,
    /// What a kernel takes of the device, where the checker says; or what is wrong.
    pub(crate) result: Result<Option<Resources>, String>,
}

/// What one thread, or one cube, of a kernel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) vector_registers: u32,
    /// Those of matrix units (CDNA), where vector registers are kept as well.
    pub(crate) accumulator_registers: u32,
    pub(crate) scalar_registers: u32,
    pub(crate) vector_spills: u32,
    pub(crate) scalar_spills: u32,
    /// Waves of a SIMD unit at once.
    pub(crate) occupancy: u32,
    /// A call that was not inlined makes the numbers a guess.
    pub(crate) calls: bool,
}

/// What was validated as it was emitted.
pub(crate) fn of_emission(entries: &[Entry]) -> Vec<Verdict> {
    let by_naga = sources(entries).filter(|(_, source)| source.checked.as_deref() == Some("naga"));
    by_naga.map(|(entry, _)| Verdict { entry, by: "naga", result: Ok(None) }).collect()
}

/// `judge` on every entry of `chosen`, on all processors; in order.
pub(crate) fn in_parallel(chosen: &[usize], judge: impl Fn(usize) -> Verdict + Sync) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::with_capacity(chosen.len()));
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&entry) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = judge(entry);
                    verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
                }
            });
        }
    });
    let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdicts.sort_by_key(|verdict| verdict.entry);
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::{emitted, refused};
    use super::*;

    #[test]
    fn what_naga_checked_counts() {
        let entries = [
            emitted("msl", "a::b", "f32"),
            refused("wgsl", "a case", "bf16", "bf16 storage"),
            emitted("wgsl", "a::b", "f32"),
            emitted("wgsl", "a::b", "f32"),
        ];
        assert_eq!(of_emission(&entries), [Verdict { entry: 2, by: "naga", result: Ok(None) }]);
    }

    #[test]
    fn every_entry_is_judged_once_and_in_order() {
        let chosen: Vec<usize> = (0..100).map(|i| i * 3).collect();
        let judged = in_parallel(&chosen, |entry| Verdict { entry, by: "test", result: Ok(None) });
        assert_eq!(judged.iter().map(|verdict| verdict.entry).collect::<Vec<_>>(), chosen);
    }
}
