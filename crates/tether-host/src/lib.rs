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
pub use tokens::{HostCodePages, HostIndices, HostPageTable, HostTables, PagedQueries, paged_attention};
pub use units::{CodedHost, CodedStore};
pub use {tether_codec, tether_core};
