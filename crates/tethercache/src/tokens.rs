//! Caches of single tokens, per layer and head: recipes and plans for language models.

mod compact;
mod plan;
mod planner;
mod recipe;

pub use compact::{KeptHead, kept_heads};
pub use plan::TokenPlan;
pub use planner::{LayerTurn, SequenceState, TokenPlanner};
pub use recipe::{
    DecodePart, FixedPlace, PrefillPart, StoredKeys, TokenEditPart, TokenPositionPart, TokenPositions,
    TokenRecipe, TokenUnit,
};
