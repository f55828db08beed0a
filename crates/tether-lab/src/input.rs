//! What a command reads: texts, and models by their names.

#[cfg(feature = "language")]
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use tether_models::{PUBLISHED, PublishedModel};

use crate::usage::Usage;

/// An input file that is not there.
#[derive(Debug, thiserror::Error)]
pub enum MissingInput {
    /// A published model that was not fetched.
    #[error("{} is not there: run `tether fetch {name}`, or name a GGUF file with --model", path.display())]
    Model {
        /// What the command line calls it.
        name: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system names no cache directory.
    #[error("there is no cache directory; set XDG_CACHE_HOME or HOME")]
    NoCache,
}

/// The published model that is called `name`.
///
/// # Errors
/// [`Usage`] where there is none.
pub fn published(name: &str) -> Result<&'static PublishedModel> {
    PublishedModel::named(name).ok_or_else(|| unknown(name).into())
}

pub(crate) fn unknown(name: &str) -> Usage {
    let names: Vec<&str> = PUBLISHED.iter().map(|m| m.name).collect();
    Usage(format!("no published model is called {name}: {}", names.join(", ")))
}

#[cfg(feature = "language")]
/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path)
        .map_err(|source| MissingInput::File { path: path.to_owned(), source })?)
}
