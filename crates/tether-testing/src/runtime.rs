//! Runtimes that may not be there.

use std::fmt::Display;

/// What was probed for, or `None` after saying why it is skipped.
///
/// # Panics
/// When it is not there and `TETHER_REQUIRE` (comma-separated names) names `runtime`.
pub fn or_skip<T, E: Display>(runtime: &str, probed: Result<T, E>) -> Option<T> {
    let required = std::env::var("TETHER_REQUIRE").unwrap_or_default();
    match probed {
        Ok(found) => Some(found),
        Err(why) if required.split(',').any(|r| r.trim() == runtime) => {
            panic!("TETHER_REQUIRE names {runtime}, but {why}")
        }
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}
