//! Scorers and selectors of single tokens, per head: what the caches of language models keep.
//!
//! A scorer asks a [`TokenObservation`] what it needs to know about one layer of one sequence and answers with [`HeadScores`]; a
//! [`TokenSelector`] turns scores and a [`Budget`] into [`KeepSets`]. Neither knows a device: a session may answer an observation with
//! reductions that ran on one, a trace from recorded arrays ([`RecordedTokens`]).

mod attention;
mod budget;
mod keep;
mod observation;
mod recorded;
mod scorer;
mod scorers;
mod scores;
mod select;

pub use attention::{WindowRows, pooled, window_rows};
pub use budget::{Budget, Protected, Rounding};
pub use keep::KeepSets;
pub use observation::{GridPlace, Needs, TokenObservation};
pub use recorded::RecordedTokens;
pub use scorer::{ScoreRequest, ScoreTokens, TokenScorer};
pub use scorers::*;
pub use scores::HeadScores;
pub use select::TokenSelector;
