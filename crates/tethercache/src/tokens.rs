//! Caches of single tokens, per layer and head: recipes and plans for language models.

mod attention;
mod cache;
mod codec;
mod compact;
mod geometry;
mod plan;
mod planner;
mod recipe;
mod requires;

pub use attention::TokenAttention;
pub use cache::{
    EvictReport, HeadContents, ModelInfo, NewTokens, SequenceId, TokenBatch, TokenBytes, TokenCache,
};
pub use codec::{BudgetScope, CodecPart, RetentionPart};
pub use compact::{KeptHead, kept_heads};
pub use geometry::TokenGeometry;
pub use plan::TokenPlan;
pub use planner::{LayerContext, PagesRead, ScoreAsked, ScoreChoice, SequenceState, TokenPlanner};
pub use recipe::{
    DecodePart, FixedPlace, PrefillPart, StoredKeys, TokenPositionPart, TokenPositions, TokenRecipe,
    TokenUnit,
};
pub use requires::KnownFacts;
