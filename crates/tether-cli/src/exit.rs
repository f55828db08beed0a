//! Exit codes: 0 done, 1 failed, 2 the command line or a recipe is wrong, 3 an input file is missing or malformed.

use std::process::ExitCode;

use tethercache::RecipeError;

use crate::trace::TraceError;

/// A request that cannot be met as it was put.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints an error with its causes and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // A reader that closed the pipe has seen what it wanted.
    let closed = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
    if closed.into_iter().any(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    let is = |wanted: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(wanted);
    if is(|e| e.is::<Usage>() || e.is::<RecipeError>()) {
        ExitCode::from(2)
    } else if is(|e| e.is::<TraceError>()) {
        ExitCode::from(3)
    } else {
        ExitCode::from(1)
    }
}
