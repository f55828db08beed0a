//! Files that say what a model's heads are for.

use std::path::{Path, PathBuf};

#[cfg(feature = "language")]
use anyhow::Context;
use anyhow::Result;
use tethercache::score::tokens::HeadProfile;

use crate::input::MissingInput;
#[cfg(feature = "language")]
use crate::language::Language;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadProfileError {
    /// It is not one.
    #[error("{path} is not a usable settings file")]
    Settings {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It is not one of the model at hand.
    #[error(
        "{path} is of the model {of} (sha256 {expected}), and this one has sha256 {got}: measure it with `tether profile heads`"
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The model that it is of.
        of: String,
        /// That model's checksum.
        expected: String,
        /// This model's checksum.
        got: String,
    },
}

/// Reads a profile.
///
/// # Errors
/// [`MissingInput`] and [`HeadProfileError`].
pub fn read(path: &Path) -> Result<HeadProfile> {
    let text = std::fs::read(path).map_err(|source| MissingInput::File { path: path.to_owned(), source })?;
    let settings = |source| HeadProfileError::Settings { path: path.to_owned(), source };
    Ok(serde_json::from_slice(&text).map_err(settings)?)
}

#[cfg(feature = "language")]
/// Opens a model, and the profile of its heads that is named.
pub(crate) fn open(model: &str, profile: Option<&Path>) -> Result<(Language, Option<HeadProfile>)> {
    let language = Language::open(model)?;
    let profile = profile.map(|path| read_for(path, &language)).transpose()?;
    Ok((language, profile))
}

#[cfg(feature = "language")]
/// Reads a profile of `language`'s model; one of another model is refused, and one that does not say whose it is where sizes differ.
fn read_for(path: &Path, language: &Language) -> Result<HeadProfile> {
    let profile = read(path)?;
    if !profile.sha256.is_empty() {
        let got = language.sha256()?;
        if got != profile.sha256 {
            let (path, of, expected) = (path.to_owned(), profile.model, profile.sha256);
            return Err(HeadProfileError::OtherModel { path, of, expected, got }.into());
        }
    }
    let config = language.model.config();
    profile.check(config.layers, config.kv_heads).with_context(|| path.display().to_string())?;
    Ok(profile)
}
