//! The scorers, one a file.

mod knorm;
mod random;
mod snapkv;
mod streaming_llm;
mod tova;

pub use knorm::Knorm;
pub use random::RandomScore;
pub use snapkv::{PoolKind, QueryHeads, Reduction, SnapKv};
pub use streaming_llm::StreamingLlm;
pub use tova::Tova;
