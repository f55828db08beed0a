//! Exit codes: 0 done, 1 failed, 2 the command line or a recipe is wrong, 3 an input file is missing or malformed.

use std::process::ExitCode;

use tether_lab::head_profile::HeadProfileError;
use tether_lab::input::MissingInput;
use tether_lab::usage::Usage;
use tether_models::ModelError;
use tether_reuse::{ProfileError, ReuseError};
use tethercache::core::CoreError;
use tethercache::score::ScoreError;
use tethercache::{Error, RecipeError};

use crate::fetch::FetchError;
use crate::trace::TraceError;

/// Prints an error with its causes and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // A reader that closed the pipe has seen what it wanted.
    let closed = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
    if closed.into_iter().any(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    ExitCode::from(error.chain().find_map(code_of).unwrap_or(1))
}

/// The code of one link of an error's chain, when it has one of its own.
fn code_of(link: &(dyn std::error::Error + 'static)) -> Option<u8> {
    // What a model has that nobody named, such as a head profile.
    if matches!(link.downcast_ref::<RecipeError>(), Some(RecipeError::Missing { .. })) {
        return Some(3);
    }
    if link.is::<Usage>() || link.is::<RecipeError>() {
        return Some(2);
    }
    if link.is::<TraceError>()
        || link.is::<FetchError>()
        || link.is::<MissingInput>()
        || link.is::<HeadProfileError>()
        || link.is::<ModelError>()
    {
        return Some(3);
    }
    match link.downcast_ref::<ReuseError>() {
        Some(ReuseError::Profile(_)) => return Some(3),
        Some(_) => return Some(2),
        None => {}
    }
    if link.is::<ProfileError>() {
        return Some(3);
    }
    match link.downcast_ref::<Error>()? {
        Error::Score(
            ScoreError::NonFinite { .. } | ScoreError::NonFiniteToken { .. } | ScoreError::Missing { .. },
        ) => Some(3),
        Error::Recipe(RecipeError::Missing { .. }) => Some(3),
        Error::Recipe(_) | Error::Layout(_) | Error::Score(_) | Error::Edit(_) => Some(2),
        Error::Core(CoreError::NonFinite { .. }) => Some(3),
        _ => None,
    }
}
