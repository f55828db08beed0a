//! Videos made side by side.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

/// What `make` makes of `0..count`, in that order, `jobs` at a time (one per processor unless that is said). Each is made in one thread, so it
/// does not depend on how many there are.
///
/// # Errors
/// The first in order of those that were met; what has not begun by then is not made.
pub(crate) fn make_all<T: Send>(
    count: usize,
    jobs: Option<usize>,
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<T>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or(available).min(count) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = results.get(index) else { break };
                    let made = make(index);
                    failed.fetch_or(made.is_err(), Ordering::Relaxed);
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                }
            });
        }
    });
    results.into_iter().filter_map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_order_and_an_error_ends_the_work() {
        assert_eq!(make_all(5, Some(3), |i| Ok(i * i)).unwrap(), [0, 1, 4, 9, 16]);
        assert!(make_all(0, None, |_| Ok(())).unwrap().is_empty());
        let made = AtomicUsize::new(0);
        let failing = make_all(100, Some(1), |i| {
            made.fetch_add(1, Ordering::Relaxed);
            if i == 2 { anyhow::bail!("no third") } else { Ok(()) }
        });
        assert_eq!(failing.unwrap_err().to_string(), "no third");
        assert_eq!(made.into_inner(), 3);
    }
}
