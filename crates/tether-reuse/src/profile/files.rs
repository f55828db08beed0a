//! Profiles in files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::SafeTensors;

use super::{Profile, ProfileHeader, VERSION, arrays};
use crate::ProfileError;

/// The header's name among the metadata of the arrays.
const HEADER: &str = "header";

impl Profile {
    /// The header as TOML, and the arrays as safetensors.
    ///
    /// # Errors
    /// What [`Profile::validate`] refuses.
    pub fn to_bytes(&self) -> Result<(String, Vec<u8>), ProfileError> {
        self.validate()?;
        let header = toml::to_string(&self.header).map_err(|e| ProfileError::Header(e.to_string()))?;
        let arrays = arrays::of(&self.data);
        let views = arrays.iter().map(arrays::Array::view).collect::<Result<Vec<_>, _>>()?;
        let metadata = HashMap::from([(HEADER.to_owned(), header.clone())]);
        Ok((header, safetensors::serialize(views, Some(metadata))?))
    }

    /// Reads what [`Profile::to_bytes`] wrote.
    ///
    /// # Errors
    /// Every way in which the two can be malformed, of another version, or not belong together.
    pub fn from_bytes(header: &str, arrays: &[u8]) -> Result<Self, ProfileError> {
        // Before the rest: fields of another version may have other names.
        let any: toml::Table = toml::from_str(header).map_err(|e| ProfileError::Header(e.to_string()))?;
        match any.get("version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(VERSION) => {}
            Some(version) => {
                let got = u32::try_from(version).unwrap_or(u32::MAX);
                return Err(ProfileError::Version { expected: VERSION, got });
            }
            None => return Err(ProfileError::Header("no version".to_owned())),
        }
        let parsed: ProfileHeader =
            toml::from_str(header).map_err(|e| ProfileError::Header(e.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(arrays)?;
        let own = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let own: Option<ProfileHeader> = own.and_then(|text| toml::from_str(text).ok());
        if own.as_ref() != Some(&parsed) {
            return Err(ProfileError::Unpaired);
        }
        let file = SafeTensors::deserialize(arrays)?;
        let profile = Self { data: arrays::read(&parsed.policy, &file)?, header: parsed };
        profile.validate()?;
        Ok(profile)
    }

    /// Writes `path`, whose extension becomes `toml`, and the arrays beside it.
    ///
    /// # Errors
    /// What [`Profile::to_bytes`] refuses, and files that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ProfileError> {
        let (header, arrays) = self.to_bytes()?;
        let (toml, tensors) = paths(path);
        std::fs::write(&toml, header).map_err(|source| ProfileError::Io { path: toml, source })?;
        std::fs::write(&tensors, arrays).map_err(|source| ProfileError::Io { path: tensors, source })
    }

    /// Reads `path` and the file beside it.
    ///
    /// # Errors
    /// As [`Profile::from_bytes`], and files that cannot be read.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let (toml, tensors) = paths(path);
        let header = match std::fs::read_to_string(&toml) {
            Ok(header) => header,
            Err(source) => return Err(ProfileError::Io { path: toml, source }),
        };
        match std::fs::read(&tensors) {
            Ok(arrays) => Self::from_bytes(&header, &arrays),
            Err(source) => Err(ProfileError::Io { path: tensors, source }),
        }
    }
}

fn paths(path: &Path) -> (PathBuf, PathBuf) {
    (path.with_extension("toml"), path.with_extension("safetensors"))
}
