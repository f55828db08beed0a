//! Scorers and selectors of single tokens, per head: what the caches of language models keep.
//!
//! A scorer asks a [`TokenObservation`] what it needs to know about one layer of one sequence and answers with [`HeadScores`]; a
//! [`TokenSelector`] turns scores and the heads' shares of a [`Budget`] into [`KeptIndices`]. Neither knows a device: a session may answer an
//! observation with reductions that ran on one, a trace from recorded arrays ([`RecordedTokens`]).

mod arithmetic;
mod attention;
mod budget;
mod expression;
mod head_budget;
mod keep;
mod layer_budget;
mod leaf;
mod observation;
mod partial;
mod profile;
mod rate_distortion;
mod recorded;
mod scorer;
mod scorers;
mod scores;
mod select;
mod selectors;

pub use arithmetic::{PositionScore, ScoreArithmetic};
pub use attention::{WindowRows, add_causal_mass, pooled, sampled_rows, window_rows};
pub use budget::{Budget, BudgetPlace, Protected, Rounding};
pub use expression::{EndScore, ScoreExpr};
pub use head_budget::{HeadBudget, HeadShare, HeadShares, ShareRequest};
pub use keep::KeptIndices;
pub use layer_budget::{LayerBudget, window_groups};
pub use observation::{BlockGrid, GridPlace, Needs, TokenObservation};
pub use partial::PartialText;
pub use profile::{HeadProfile, LayerProfile, attention_variance, column_variance, echo_and_induction};
pub use rate_distortion::{
    Allocation, RateGroup, RateWindow, Refresh, TierError, TierPage, TierPages, allocate,
    distortion_of_scores, whole_pages,
};
pub use recorded::RecordedTokens;
pub use scorer::{ScoreRequest, ScoreTokens, TokenScorer};
pub use scorers::*;
pub use scores::HeadScores;
pub use select::{ScoreSpans, SelectScope, SelectTokens, TokenSelector};
pub use selectors::{Blocks, Chunks, ElasticOfficial, Pages, TopK, Windows};
