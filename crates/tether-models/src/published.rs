//! Models that are published elsewhere: what they are called, and where a fetched copy is.

use std::path::PathBuf;

/// A model file that is published elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedModel {
    /// What the command line calls it.
    pub name: &'static str,
    /// Its file's name.
    pub file: &'static str,
    /// Its file's size.
    pub bytes: u64,
    /// Its file's checksum, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// The environment variable that names another copy of it.
    pub variable: &'static str,
}

/// SmolLM2-135M-Instruct (Apache-2.0): 30 layers, 9 query heads, 3 key heads, weights of about 5 bits.
pub const SMOLLM2: PublishedModel = PublishedModel {
    name: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    variable: "TETHER_SMOLLM2",
};

/// Every model that can be fetched.
pub const PUBLISHED: &[PublishedModel] = &[SMOLLM2];

impl PublishedModel {
    /// The model that the command line calls `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|m| m.name == name)
    }

    /// Where `tether fetch` puts it: under the user's cache directory. `None` when the system has no such directory.
    pub fn cached_path(&self) -> Option<PathBuf> {
        Some(dirs::cache_dir()?.join("tethercache/models").join(self.file))
    }

    /// Where it is: what the environment variable names, or else where it would be fetched to. Whether there is such a file is not
    /// looked at.
    pub fn path(&self) -> Option<PathBuf> {
        match std::env::var_os(self.variable) {
            Some(path) if !path.is_empty() => Some(path.into()),
            _ => self.cached_path(),
        }
    }
}
