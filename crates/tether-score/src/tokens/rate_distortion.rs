//! Rate-distortion retention: how precisely each token of each head is kept, or whether at all, under one budget.
//!
//! A *tier* is a way to keep a token: its cost, in whatever the budget counts (bytes), and the distortion that follows. Dropping is a tier, a number of bits is one, and so
//! is a place that is slow to read. Distortions are in one unit, so that tokens of different heads and layers compete with each other, and dropping with
//! rounding.

mod allocate;
mod estimate;
mod hull;
mod pages;

pub use allocate::{Allocation, RateGroup, Refresh, allocate};
pub use estimate::{RateWindow, TierError, distortion_of_scores};
pub use pages::{TierPage, TierPages, whole_pages};
