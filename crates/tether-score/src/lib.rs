#![doc = include_str!("../README.md")]

mod diversity;
mod error;
mod gated_recall;
mod mass;
mod score_frames;
mod select;
pub mod tokens;

pub use diversity::{Diversity, temporal_diversity};
pub use error::ScoreError;
pub use gated_recall::{BatchStatistics, GatedRecall, UnitScores};
pub use mass::{attention_mass, mean_logits, mean_query};
pub use score_frames::{FrameCandidates, FrameScorer, ScoreFrames};
pub use select::{EvenlySpaced, FrameChoice, FrameSelector, Order, SelectFrames, TopK, evenly_spaced, top_k};
pub use tether_core::{CoreError, Pairing, Pool};
pub use tether_part as part;
