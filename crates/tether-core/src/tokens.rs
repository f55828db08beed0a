//! Operations on single tokens, heads and pages: what language-model caches need beside the unit operations of [`crate::Engine`].

mod attend;
mod codes;
mod decode;
mod engine;
mod gather;
mod grid;
mod leaf;
mod mean_rotation;
mod merge;
mod page_choice;
mod page_table;
mod phases;
mod rotation;
mod row_codec;
mod row_lists;
mod rows;
mod score_op;
mod shape;
mod top_k;
mod window;

pub use attend::{
    AttendOptions, CausalLists, NewQueries, PagedKv, batch_problem, check_lengths, check_positions,
    check_starts, check_sums,
};
pub use codes::{CodeFrames, CodeSpec};
pub use decode::{BlockTables, DecodeProblem, EMPTY_LSE};
pub use engine::TokenEngine;
pub use gather::{PageProblem, RowProblem};
pub use grid::{NEIGHBOURS, TokenGrid};
pub use leaf::{LeafProblem, LeafQueries, ObservedLayer, ObservedShapes, ScoreLeaf};
pub use mean_rotation::MeanRotation;
pub use merge::merge_partial;
pub use page_choice::{PageChoice, PageChoiceProblem, check_bounds};
pub use page_table::{ChosenTokens, PageLists, check_entries};
pub use phases::RotationPhases;
pub use rotation::{MAX_AXES, Rotation, RotationExtents};
pub use row_codec::{MeanOf, PublishedTier, RowCodec};
pub use row_lists::{RowLists, SimilarRows, StandInProblem, StandIns};
pub use rows::PoolRows;
pub use score_op::ScoreOp;
pub use shape::{TokenLayout, TokenShape};
pub use top_k::TopKProblem;
pub use window::{Pool, WindowProblem, WindowSpec};
