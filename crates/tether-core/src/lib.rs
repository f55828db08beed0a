#![doc = include_str!("../README.md")]

mod alignment;
pub mod checks;
mod dtype;
mod engine;
mod error;
mod geometry;
mod id;
mod mean_logits;
mod moments;
mod plan;
mod region;
mod rope_kind;
mod rotated_places;
mod tensor;
mod tokens;
mod traffic;

pub use alignment::{ChannelAlignment, Spread};
pub use dtype::DType;
pub use engine::{AttendTable, Engine, LogitQuery, Readback, Side, StoreSpec, Summaries};
pub use error::CoreError;
pub use geometry::Geometry;
pub use id::{ChunkIndex, LayerId, SlotId, UnitIndex};
pub use mean_logits::{mean_logits, mean_query};
pub use moments::{Moments, MomentsView};
pub use plan::{AlignJob, CommitPlan, Edit, Member, MemoryPlan, RecallPlan, RecalledUnits};
pub use region::Region;
pub use rope_kind::{Axis, AxisLayout, AxisOrder, Frequencies, Pairing, RopeKind, RopeSpan};
pub use rotated_places::{RotatedPlaces, UnitToRotate};
pub use tensor::{Element, ElementsMut, HostTensor, Shape, TensorData};
pub use tokens::{
    AttendOptions, BlockTables, CausalLists, ChosenTokens, CodeFrames, CodeSpec, DecodeProblem, EMPTY_LSE,
    LeafProblem, LeafQueries, MAX_AXES, MeanOf, MeanRotation, NEIGHBOURS, NewQueries, ObservedLayer,
    ObservedShapes, PageChoice, PageChoiceProblem, PageLists, PageProblem, PagedKv, Pool, PoolRows,
    PublishedTier, Rotation, RotationExtents, RotationPhases, RowCodec, RowLists, RowProblem, ScoreLeaf,
    ScoreOp, SimilarRows, StandInProblem, StandIns, TokenEngine, TokenGrid, TokenLayout, TokenShape,
    TopKProblem, WindowProblem, WindowSpec, batch_problem, check_bounds, check_entries, check_lengths,
    check_positions, check_starts, check_sums, merge_partial,
};
pub use traffic::{Traffic, TrafficCounters};
