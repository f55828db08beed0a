//! Codecs of the literature that spherical codes are compared with. Host only; a matrix here is the rows `[tokens, head_dim]` of one head of one layer.

mod kivi;
mod polar;
mod published;

pub use kivi::Kivi;
pub(crate) use kivi::kivi_groups;
pub use polar::PairPolar;
pub use published::{PublishedCodes, SphericalCodebooks};
pub use tether_core::PublishedTier;
