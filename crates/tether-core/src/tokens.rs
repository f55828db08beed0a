//! Operations on single tokens, heads and pages: what language-model caches need beside the unit operations of [`crate::Engine`].

mod decode;
mod engine;
mod extend;
mod gather;
mod merge;
mod rotation;
mod rows;
mod shape;
mod top_k;
mod window;

pub use decode::{BlockTables, DecodeProblem, EMPTY_LSE};
pub use engine::TokenEngine;
pub use extend::{CausalTables, check_extend};
pub use gather::{PageProblem, RowProblem};
pub use merge::merge_partial;
pub use rotation::{MAX_AXES, Rotation, RotationExtents};
pub use rows::PoolRows;
pub use shape::{TokenLayout, TokenShape};
pub use top_k::TopKProblem;
pub use window::{Pool, WindowProblem, WindowSpec};
