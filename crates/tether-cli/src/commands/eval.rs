//! `tether eval`.

mod all;
mod codec;
mod curves;
mod page;
mod paired;
mod perplexity;
mod questions;
mod quiz;
mod reuse;
mod runs;
mod speed;

use anyhow::Result;

use self::questions::Task;
use crate::cli::{EvalArgs, Measure};

/// Runs the subcommand.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    match &args.measure {
        Measure::Perplexity(args) => perplexity::run(args),
        Measure::Reuse(args) => reuse::run(args),
        Measure::All(args) => all::run(args),
        Measure::Speed(args) => speed::run(args),
        Measure::Needle(args) => quiz::run(args, Task::Needle),
        Measure::Recall(args) => quiz::run(args, Task::Recall),
        Measure::Codec(args) => codec::run(args),
    }
}
