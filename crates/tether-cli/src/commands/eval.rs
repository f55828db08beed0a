//! `tether eval`.

mod codec;
mod perplexity;

use anyhow::Result;

use crate::cli::{EvalArgs, Measure};

/// Runs the subcommand.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match &args.measure {
        Measure::Perplexity(args) => perplexity::run(args),
        Measure::Codec(args) => codec::run(args),
    }
}
