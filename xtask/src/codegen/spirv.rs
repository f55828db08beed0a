//! SPIR-V, checked by spirv-val.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::manifest::{Entry, sources};
use super::tool::{self, Outcome, Required};
use super::verdict::{Resources, Verdict, in_parallel};

/// As `TETHER_REQUIRE` names it.
const NAME: &str = "spirv-val";

/// Validates every SPIR-V module of `entries`, which lie below `folder`.
pub(crate) fn check(folder: &Path, entries: &[Entry], required: &Required) -> Result<Outcome<Vec<Verdict>>> {
    let Some(program) = tool::find(&[NAME]) else {
        return required.missing(NAME, "it is not installed (apt-get install spirv-tools)");
    };
    let is_module = |entry: &usize| entries[*entry].target == "spirv";
    let chosen: Vec<usize> = sources(entries).map(|(entry, _)| entry).filter(is_module).collect();
    Ok(Outcome::Ran(in_parallel(&chosen, |entry| {
        let file = entries[entry].source().map(|source| folder.join(&source.file));
        Verdict { entry, by: NAME, result: file.map_or(Ok(None), |file| validate(program, &file)) }
    })))
}

fn validate(program: &str, module: &Path) -> Result<Option<Resources>, String> {
    let output = Command::new(program)
        // What the modules are compiled for; the layout is a feature that every device of Vulkan 1.2 has.
        .args(["--target-env", "vulkan1.3", "--uniform-buffer-standard-layout"])
        .arg(module)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(None);
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no message").to_owned())
}
