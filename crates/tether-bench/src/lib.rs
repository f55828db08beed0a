//! Device benchmarks: every operation at fixed shapes, beside what the device can do at most, checked as it is timed.
//!
//! Shapes are those of the Wan2.1-1.3B video model (12 heads of 128, frames of 1560 tokens) and of 8-billion-parameter language models (32 query
//! heads, 8 key heads of 128); those of step reuse are the tokens of Wan2.1-14B (32760 of 5120 channels). A record is one operation at one shape.
#![cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]

mod bench;
mod ceilings;
mod codes;
mod commit;
mod compact;
mod decode;
mod frames;
mod pages;
mod prefill;
mod reference;
mod reuse;
mod rope;
mod select;
mod session;
mod spherical;
mod video;

pub use bench::{Bench, Ceilings, Record, Timing};

use tether_core::CoreError;
use tether_kernels::Cube;
use tether_kernels::cubecl::Runtime;

/// Names of the groups of operations, in the order in which they run.
pub const GROUPS: [&str; 14] = [
    "rope", "gather", "quant", "squant", "snap", "frame", "commit", "decode", "prefill", "qdecode",
    "sdecode", "ar", "reuse", "session",
];

/// A group of operations.
type Group<R> = fn(&mut Bench<'_, R>) -> Result<(), CoreError>;

/// The groups, in the order of [`GROUPS`].
fn groups<R: Runtime>() -> [Group<R>; GROUPS.len()] {
    [
        rope::run,
        compact::run,
        codes::run,
        spherical::run_codes,
        select::run,
        frames::run,
        commit::run,
        decode::run,
        prefill::run,
        decode::run_codes,
        spherical::run_decode,
        video::run,
        reuse::run,
        session::run,
    ]
}

/// Measures the ceilings, then the groups in `only` (all when it is empty). `each` sees a record as soon as it is there.
///
/// # Errors
/// Whatever the device refuses; an operation that it does not support is left out with a note instead.
pub fn run<R: Runtime>(
    engine: &Cube<R>,
    only: &[String],
    each: &mut dyn FnMut(&Record),
    note: &mut dyn FnMut(&str),
) -> Result<Ceilings, CoreError> {
    let ceilings = ceilings::measure(engine)?;
    let mut bench = Bench::new(engine, ceilings.clone(), each, note);
    for (name, group) in GROUPS.into_iter().zip(groups::<R>()) {
        if !only.is_empty() && !only.iter().any(|o| o == name) {
            continue;
        }
        match group(&mut bench) {
            Err(CoreError::Unsupported { feature, .. }) => {
                bench.say(&format!("{name}: skipped, no {feature}"));
            }
            other => other?,
        }
    }
    Ok(ceilings)
}
