//! One file per operation: a checked problem becomes a blueprint, chosen on the host for what the device can do, and a launch.

pub(crate) mod attend;
pub(crate) mod code_pages;
pub(crate) mod decode;
pub(crate) mod decode_spherical;
pub(crate) mod frames;
pub(crate) mod gather;
pub(crate) mod leaves;
pub(crate) mod page_choice;
pub(crate) mod quantise;
pub(crate) mod query_scores;
pub(crate) mod reuse;
pub(crate) mod rotate;
pub(crate) mod row_forms;
pub(crate) mod row_scores;
pub(crate) mod score_ops;
pub(crate) mod segments;
pub(crate) mod similar;
pub(crate) mod spherical;
pub(crate) mod spreads;
pub(crate) mod sums;
pub(crate) mod top_k;
pub(crate) mod window;
