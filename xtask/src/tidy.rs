//! What no compiler and no linter checks.

mod arrows;
mod dependencies;
mod files;
mod kernels;
mod published;
mod table;
mod workspace;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use self::table::Table;
use self::workspace::Workspace;

/// Holds the dependency table.
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Runs every check and reports all that they found together.
pub(crate) fn check(shell: &Shell) -> Result<()> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version 1").quiet().read()?;
    let workspace = Workspace::from_metadata(&metadata)?;

    let mut problems = Vec::new();
    match read_table(shell) {
        Ok(table) => problems.extend(arrows::check(&table, &workspace)),
        Err(error) => problems.push(format!("{error:#}")),
    }
    problems.extend(arrows::published_on_unpublished(&workspace));
    problems.extend(dependencies::check(&workspace));
    // Every platform: one that has no GPU crate here may have one elsewhere.
    let tree = cmd!(shell, "cargo tree --workspace -e normal --target all --prefix none").quiet().read()?;
    problems.extend(dependencies::gpu_crates(&tree));
    problems.extend(files::check(shell)?);
    problems.extend(kernels::check(&shell.current_dir())?);
    problems.extend(published::check(shell, &workspace));

    for problem in &problems {
        eprintln!("{problem}");
    }
    ensure!(problems.is_empty(), "{} found", plural(problems.len(), "problem"));
    Ok(())
}

fn read_table(shell: &Shell) -> Result<Table> {
    let text = shell.read_file(ARCHITECTURE).context("the dependency table is needed")?;
    Table::parse(&text).context(ARCHITECTURE)
}

/// `1 problem`, `2 problems`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
