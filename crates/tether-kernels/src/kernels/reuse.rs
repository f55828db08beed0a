//! Step reuse: what is measured of a step's tensors, and what is made of cached ones.

mod combine;
mod ladder;
mod sums;

pub(crate) use combine::weighted_sum;
pub(crate) use ladder::climb;
pub(crate) use sums::{AT_ONCE, SUMS, THREADS, sum_magnitudes, sum_token_ratios};
