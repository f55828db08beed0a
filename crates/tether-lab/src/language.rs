//! The language model that a command was asked to run.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tether_models::{GgufFile, Llama, PublishedModel, TextTokenizer};

use crate::checksum::sha256_of;
use crate::input::{MissingInput, unknown};

/// A model, and what its text is made of.
#[derive(Debug)]
pub(crate) struct Language {
    pub(crate) model: Llama,
    pub(crate) tokenizer: TextTokenizer,
    /// What people call it: the file's name.
    pub(crate) name: String,
    path: PathBuf,
}

impl Language {
    /// Loads a published model by its name, or any GGUF file by its path.
    pub(crate) fn open(model: &str) -> Result<Self> {
        let path = match PublishedModel::named(model) {
            Some(published) => {
                let path = published.path().ok_or(MissingInput::NoCache)?;
                if !path.is_file() {
                    return Err(MissingInput::Model { name: published.name, path }.into());
                }
                path
            }
            // A name that was mistyped should not be reported as a file.
            None if !model.contains(['/', '\\', '.']) && !Path::new(model).exists() => {
                return Err(unknown(model).into());
            }
            None => model.into(),
        };
        join_pool();
        let unusable = || format!("cannot use {}", path.display());
        let file = GgufFile::open(&path).with_context(unusable)?;
        let model = Llama::load(&file).with_context(unusable)?;
        let tokenizer = TextTokenizer::load(&file).with_context(unusable)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { model, tokenizer, name, path })
    }

    /// The checksum of the model's file.
    pub(crate) fn sha256(&self) -> Result<String> {
        let unreadable = || format!("cannot read {}", self.path.display());
        sha256_of(File::open(&self.path).with_context(unreadable)?).with_context(unreadable)
    }
}

/// Makes this thread one of rayon's. A token is several hundred parallel calls of a few microseconds, and a call from outside the pool waits
/// each time for a sleeping thread to wake.
fn join_pool() {
    // Fails where the pool is there already, which is as good.
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
}
