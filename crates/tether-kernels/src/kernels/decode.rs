//! Paged decode attention: one query token a sequence. Each cube takes a part of a list's tokens; partial results are merged by their
//! log-sum-exps.

mod coded_plain;
mod combine;
mod fragments;
mod lookup;
mod matrix;
mod matrix_launch;
mod merge;
mod options;
mod plain;
mod plain_options;
mod rows;
mod segments;
mod spherical_combine;
mod spherical_matrix;
mod spherical_plain;

pub(crate) use coded_plain::decode_plain_rows;
pub(crate) use combine::{COMBINE_THREADS, MOST_PARTS, combine_parts, combine_parts_sinks, merge_parts};
pub(crate) use matrix_launch::{decode_matrix, decode_matrix_options};
pub(crate) use options::{Options, is_hidden, shaped};
pub(crate) use plain::{THREADS, decode_plain, decode_plain_codes};
pub(crate) use plain_options::decode_plain_options;
pub(crate) use segments::merge_segments;
pub(crate) use spherical_combine::{THREADS as SPHERICAL_COMBINE_THREADS, combine_spherical};
pub(crate) use spherical_matrix::{ROWS as SPHERICAL_ROWS, decode_spherical_matrix};
pub(crate) use spherical_plain::decode_spherical_plain;

/// Rows of queries that a cube takes: what a matrix unit takes.
pub(crate) const ROWS: usize = 16;
