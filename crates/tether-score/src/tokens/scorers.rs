//! The scorers, one a file.

mod accumulated_attention;
mod criticalkv;
mod expected_attention;
mod keydiff;
mod knorm;
mod lagkv;
mod random;
mod snapkv;
mod streaming_llm;
mod tova;

pub use accumulated_attention::AccumulatedAttention;
pub use criticalkv::CriticalKv;
pub use expected_attention::ExpectedAttention;
pub use keydiff::KeyDiff;
pub use knorm::Knorm;
pub use lagkv::LagKv;
pub use random::RandomScore;
pub use snapkv::{PoolKind, QueryHeads, Reduction, SnapKv};
pub use streaming_llm::StreamingLlm;
pub use tova::Tova;
