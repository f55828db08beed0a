//! The kernels, one concept a file. They are generic over the storage type and compute in `f32`; launching them, checks and buffers are
//! the business of `cube` and `ops`.

pub(crate) mod align;
pub(crate) mod attend;
pub(crate) mod ceiling;
pub(crate) mod column;
pub(crate) mod copy;
pub(crate) mod decode;
pub(crate) mod frames;
pub(crate) mod gather;
pub(crate) mod halves;
pub(crate) mod mass;
pub(crate) mod moments;
pub(crate) mod page_choice;
pub(crate) mod products;
pub(crate) mod quantise;
pub(crate) mod query_scores;
pub(crate) mod reuse;
pub(crate) mod rotate;
pub(crate) mod row_forms;
pub(crate) mod row_scores;
pub(crate) mod rows_of_codes;
mod runs;
pub(crate) mod score_ops;
pub(crate) mod segments;
pub(crate) mod similar;
pub(crate) mod spherical;
pub(crate) mod spreads;
pub(crate) mod sums;
pub(crate) mod tokens;
pub(crate) mod top_k;
pub(crate) mod window;
pub(crate) mod words;
