#![doc = include_str!("../README.md")]

mod diversity;
mod error;
mod gated_recall;
mod mass;
mod select;

pub use diversity::{Diversity, temporal_diversity};
pub use error::ScoreError;
pub use gated_recall::{BatchStatistics, GatedRecall, UnitScores};
pub use mass::attention_mass;
pub use select::{Order, Selector, evenly_spaced, top_k};
pub use tether_core::host::{mean_logits, mean_query};
