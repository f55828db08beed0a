//! `tether fetch`.

use anyhow::Result;

use crate::cli::FetchArgs;
use crate::fetch;
use tether_lab::input::published;

/// Runs the subcommand.
pub(crate) fn run(args: &FetchArgs) -> Result<()> {
    let model = published(&args.model)?;
    let target = fetch::target(model)?;
    if !fetch::is_there(model, &target)? {
        match &args.from {
            Some(file) => fetch::install(model, file, &target)?,
            None => fetch::download(model, args.origin, &target)?,
        }
    }
    println!("{}", target.display());
    Ok(())
}
