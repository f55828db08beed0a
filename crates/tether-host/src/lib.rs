#![doc = include_str!("../README.md")]

mod align;
mod attend;
mod codec;
mod engine;
mod rotated;
mod spherical;
mod store;
mod tokens;
mod units;

pub use engine::{Host, Ready};
pub use store::HostStore;
pub use tokens::{HostIndices, HostPageTable, HostTables, PagedQueries, attend_to_rows, paged_attention};
pub use units::{CodedHost, CodedStore};
pub use {tether_codec, tether_core};
