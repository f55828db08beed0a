//! Paged decode attention: one query token a sequence. Each cube takes a part of a list's tokens; partial results are merged by their
//! log-sum-exps.

mod combine;
mod fragments;
mod matrix;
mod plain;
mod rows;

pub(crate) use combine::{COMBINE_THREADS, MOST_PARTS, combine_parts};
pub(crate) use matrix::decode_matrix;
pub(crate) use plain::{THREADS, decode_plain, decode_plain_codes};

/// Rows of queries that a cube takes: what a matrix unit takes.
pub(crate) const ROWS: usize = 16;
