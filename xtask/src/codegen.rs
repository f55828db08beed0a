//! `cargo xtask codegen`: every kernel as source for every target, checked by the compilers that are here.

mod clang;
pub(crate) mod kernels;
mod manifest;
mod spirv;
pub(crate) mod support;
mod table;
mod tool;
mod verdict;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use xshell::{Shell, cmd};

use self::manifest::{Entry, Outcome, sources};
use self::tool::Required;
use self::verdict::Verdict;
use crate::tidy::plural;

/// The support matrix, which this command writes.
pub(crate) const SUPPORT: &str = "docs/support.md";

/// What the engine is asked for.
pub(crate) const CASES: &str = "crates/tether-kernels/src/codegen/cases.rs";

/// What to do with the support matrix.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Codegen {
    /// Fail when docs/support.md is stale, instead of writing it
    #[arg(long)]
    check: bool,
}

impl Codegen {
    pub(crate) fn run(self, shell: &Shell) -> Result<()> {
        let folder = target_folder(shell)?.join("codegen");
        // Sources of kernels that are gone would be checked for ever.
        shell.remove_path(&folder)?;
        shell.create_dir(&folder)?;
        cmd!(shell, "cargo run --quiet -p tether-kernels --features codegen --example codegen -- {folder}")
            .run()?;
        let manifest = fs::read_to_string(folder.join("manifest.json")).context("no manifest was written")?;
        let entries = manifest::parse(&manifest)?;

        let required = Required::from_env();
        let mut verdicts = verdict::of_emission(&entries);
        let mut skipped = Vec::new();
        for checked in [
            clang::check(&shell.current_dir(), &folder, &entries, &required)?,
            spirv::check(&folder, &entries, &required)?,
        ] {
            match checked {
                tool::Outcome::Ran(of_tool) => verdicts.extend(of_tool),
                tool::Outcome::Missing(why) => skipped.push(why),
            }
        }
        fs::write(folder.join("report.tsv"), table::report(&entries, &verdicts))?;
        print!("{}", table::summary(&entries, &verdicts));
        for why in skipped {
            println!("skipped: {why}");
        }
        println!("sources and report.tsv are in {}", folder.display());

        fail_on(&shell.current_dir(), &entries, &verdicts)?;
        self.support(shell, &support::matrix(&entries))
    }

    /// Compares the matrix with the file, or writes it.
    fn support(self, shell: &Shell, matrix: &str) -> Result<()> {
        let current = shell.read_file(SUPPORT).unwrap_or_default();
        if current == matrix {
            return Ok(());
        }
        ensure!(!self.check, "{SUPPORT} is stale: run `cargo xtask codegen` and commit it");
        shell.write_file(SUPPORT, matrix)?;
        println!("{SUPPORT} is new");
        Ok(())
    }
}

fn target_folder(shell: &Shell) -> Result<PathBuf> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version 1").quiet().read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str().context("cargo names no target directory")?;
    Ok(Path::new(folder).to_owned())
}

/// Every failure, so that one run shows all that is wrong.
fn fail_on(root: &Path, entries: &[Entry], verdicts: &[Verdict]) -> Result<()> {
    let mut problems = Vec::new();
    // A kernel that does not compile fails every case that launches it.
    let mut known = BTreeSet::new();
    for entry in entries {
        if let Outcome::Failed(reason) = &entry.outcome
            && known.insert((&entry.target, reason))
        {
            problems.push(format!("{entry}: {reason}"));
        }
    }
    for Verdict { entry, by, result } in verdicts {
        if let Err(reason) = result {
            problems.push(format!("{}, {by}: {reason}", entries[*entry]));
        }
    }
    let launched: BTreeSet<&str> = sources(entries).map(|(_, source)| source.kernel.as_str()).collect();
    for kernel in kernels::all(root)? {
        if !launched.contains(kernel.as_str()) {
            problems.push(format!("{kernel}: no case of {CASES} launches it"));
        }
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    ensure!(problems.is_empty(), "{} found", plural(problems.len(), "problem"));
    Ok(())
}
