//! `tether eval`.

mod all;
mod args;
mod codec;
mod draw;
mod page;
mod pareto;
mod perplexity;
mod questions;
mod quiz;
mod ranks;
mod reuse;
mod runs;
mod speed;

use anyhow::Result;

pub use self::args::EvalArgs;
use self::args::Measure;
use self::questions::Task;

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, measured or written.
pub fn run(args: &EvalArgs) -> Result<()> {
    match &args.measure {
        Measure::Perplexity(args) => perplexity::run(args),
        Measure::Reuse(args) => reuse::run(args),
        Measure::Draw(args) => draw::run(args),
        Measure::All(args) => all::run(args),
        Measure::Speed(args) => speed::run(args),
        Measure::Needle(args) => quiz::run(args, Task::Needle),
        Measure::Recall(args) => quiz::run(args, Task::Recall),
        Measure::Codec(args) => codec::run(args),
    }
}
