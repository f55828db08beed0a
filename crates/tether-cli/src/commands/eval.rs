//! `tether eval`.

mod curves;
mod paired;
mod perplexity;
mod runs;

use anyhow::Result;

use crate::cli::{EvalArgs, Measure};

/// Runs the subcommand.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match &args.measure {
        Measure::Perplexity(args) => perplexity::run(args),
    }
}
