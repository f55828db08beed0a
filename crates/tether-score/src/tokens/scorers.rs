//! The scorers, one a file.

mod accumulated_attention;
mod block_likeness;
mod criticalkv;
mod dapq;
mod expected_attention;
mod importance_redundancy;
mod keydiff;
mod knorm;
mod lagkv;
mod page_bounds;
mod question_guided;
mod random;
mod sampled_attention;
mod snapkv;
mod st_lite;
mod streaming_llm;
mod tova;
mod windowkv;

pub(super) use block_likeness::block_logits;
pub(super) use keydiff::norm;
pub(super) use question_guided::mean_row;

pub use accumulated_attention::AccumulatedAttention;
pub use block_likeness::{BlockLikeness, block_means};
pub use criticalkv::CriticalKv;
pub use dapq::DapQ;
pub use expected_attention::ExpectedAttention;
pub use importance_redundancy::ImportanceRedundancy;
pub use keydiff::KeyDiff;
pub use knorm::Knorm;
pub use lagkv::LagKv;
pub use page_bounds::{PageBounds, page_bounds};
pub use question_guided::QuestionGuided;
pub use random::RandomScore;
pub use sampled_attention::SampledAttention;
pub use snapkv::{PoolKind, QueryHeads, Reduction, SnapKv};
pub use st_lite::{StLite, spatial_saliency, token_grid};
pub use streaming_llm::StreamingLlm;
pub use tova::Tova;
pub use windowkv::{WindowKv, WindowTask};
