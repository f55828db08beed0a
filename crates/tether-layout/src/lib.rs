#![doc = include_str!("../README.md")]

mod block_pool;
mod csr;
mod error;
mod regions;
mod window;

pub use block_pool::BlockPool;
pub use csr::Csr;
pub use error::LayoutError;
pub use regions::{Archive, Extent, RegionSpec, Regions, Rounding};
pub use tether_core::{Member, MemoryPlan, Region, SlotId, UnitIndex};
pub use window::Window;
