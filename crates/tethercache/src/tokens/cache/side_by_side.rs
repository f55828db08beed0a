//! Work of the host on several layers at once.

use std::num::NonZero;
use std::thread;

/// Tokens of all layers from which on working on one after the other takes longer than to start threads.
const MANY: usize = 1 << 17;

/// `work` of each item, in their order. Items of [`MANY`] tokens together are divided among threads; what comes out does not depend on how many there are.
pub(super) fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    tokens: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(items.len());
    if threads <= 1 || tokens < MANY {
        return items.iter().map(work).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let each = items.len().div_ceil(threads);
        let parts: Vec<_> = items
            .chunks(each)
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>()))
            .collect();
        let joined = parts.into_iter().map(|part| part.join());
        joined.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
