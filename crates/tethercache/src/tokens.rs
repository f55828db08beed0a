//! Caches of single tokens, per layer and head: recipes and plans for language models.

mod plan;
mod planner;
mod recipe;

pub use plan::TokenPlan;
pub use planner::{LayerTurn, SequenceState, TokenPlanner};
pub use recipe::{DecodePart, StoredKeys, TokenPositionPart, TokenPositions, TokenRecipe, TokenUnit};
