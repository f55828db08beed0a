//! Commands that a build without language models does not have.

use anyhow::Result;
use tether_lab::usage::Usage;

use crate::cli::AbsentArgs;

/// Says which build has the command.
pub(crate) fn run(name: &str, args: &AbsentArgs) -> Result<()> {
    let rest: String = args.rest.iter().map(|arg| format!(" {arg}")).collect();
    let how = format!("cargo run --release --features lab -- {name}{rest}");
    Err(Usage(format!("this build has no language models, which `tether {name}` needs: {how}")).into())
}
