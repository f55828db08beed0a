//! Progress on standard error, where that is a terminal.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of `len` steps that looks as `template` says, with `message` in its place.
///
/// # Errors
/// For a template that is none.
pub fn bar(len: u64, template: &str, message: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template)?);
    bar.set_message(message.to_owned());
    Ok(bar)
}
