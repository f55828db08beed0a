//! Files that say what a model's heads are for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tethercache::score::tokens::HeadProfile;

use crate::language::Language;
use crate::trace::{self, TraceError};

/// A profile that is not one of the model at hand.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is of the model {of} (sha256 {expected}), and this one has sha256 {got}: measure it with `tether profile heads`"
)]
pub(crate) struct OtherModel {
    path: PathBuf,
    of: String,
    expected: String,
    got: String,
}

/// Reads a profile.
pub(crate) fn read(path: &Path) -> Result<HeadProfile> {
    let text = trace::read(path)?;
    let settings = |source| TraceError::Settings { path: path.to_owned(), source };
    Ok(serde_json::from_slice(&text).map_err(settings)?)
}

/// Opens a model, and the profile of its heads that is named.
pub(crate) fn open(model: &str, profile: Option<&Path>) -> Result<(Language, Option<HeadProfile>)> {
    let language = Language::open(model)?;
    let profile = profile.map(|path| read_for(path, &language)).transpose()?;
    Ok((language, profile))
}

/// Reads a profile of `language`'s model; one of another model is refused, and one that does not say whose it is where sizes differ.
fn read_for(path: &Path, language: &Language) -> Result<HeadProfile> {
    let profile = read(path)?;
    if !profile.sha256.is_empty() {
        let got = language.sha256()?;
        if got != profile.sha256 {
            let (path, of, expected) = (path.to_owned(), profile.model, profile.sha256);
            return Err(OtherModel { path, of, expected, got }.into());
        }
    }
    let config = language.model.config();
    profile.check(config.layers, config.kv_heads).with_context(|| path.display().to_string())?;
    Ok(profile)
}
