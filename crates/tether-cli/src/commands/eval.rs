//! `tether eval`.

mod perplexity;
mod reuse;

use anyhow::Result;

use crate::cli::{EvalArgs, Measure};

/// Runs the subcommand.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match &args.measure {
        Measure::Perplexity(args) => perplexity::run(args),
        Measure::Reuse(args) => reuse::run(args),
    }
}
